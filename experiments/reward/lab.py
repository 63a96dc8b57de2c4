"""States of frozen `sapling` for a pool of answers of the offline bench, made once.

    python experiments/reward/lab.py          # about four minutes of one core; the others need it

Raters are simulated anew for every seed on a part of the pool, so seeds differ in data, noise and order; the
states of the answers do not depend on any of these.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from niwaki.ground.corpus import default_cache
from niwaki.reward.features import Features, Pooling, cache_ratings, load_extractor
from niwaki.reward.records import Rating
from niwaki.reward.tokens import encode_ratings
from niwaki.sapling import answers

NUM_COUPLES = {"train": 800, "test": 500}
FOLDER = default_cache()
POOLINGS: tuple[Pooling, ...] = ("mean", "last")
POOL_SEED = 0
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Pool:
    """Couples of answers with their states [c, 2, d], prompt states [c, d] and lengths in tokens [c, 2]."""

    couples: list[answers.Couple]
    states: np.ndarray
    prompts: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Sample:
    """What one seed learns from, or is judged on.

    Attributes:
        states: [m, 2, d], the chosen answer first; `prompts` [m, d], `lengths` [m, 2].
        strength, domain, group: of each pair.
        rated: [n, d] states of all answers; labels [n, K] by name, their groups and lengths.
    """

    states: np.ndarray
    prompts: np.ndarray
    lengths: np.ndarray
    strength: np.ndarray
    domain: np.ndarray
    group: list[str]
    worth: np.ndarray
    rated: np.ndarray
    labels: dict[str, np.ndarray]
    rated_groups: list[str]
    rated_lengths: np.ndarray


def pool(split: str, pooling: Pooling = "mean") -> Pool:
    """The pool of a split; computed when it is not there.

    `pooling`: "mean" over the answer, or "last", the state that a stock reward model reads.
    """
    couples = answers.draw(NUM_COUPLES[split], split=split, seed=POOL_SEED)
    extractor = load_extractor("sapling", pooling=pooling)
    flat = [
        Rating(f"{c.row}-{i}", c.prompt, a.text, {}, c.domain)
        for c in couples
        for i, a in enumerate(c.answers)
    ]
    tokens, skipped = encode_ratings(extractor.chat, flat, (), max_tokens=MAX_TOKENS)
    assert not skipped
    features: Features = cache_ratings(
        extractor, tokens, FOLDER / f"experiments-reward-{pooling}" / split, shard_rows=512
    )
    states, prompts = features.read("states"), features.read("prompts")
    d = states.shape[1]
    lengths = np.array(features.meta["lengths"]).reshape(-1, 2)
    return Pool(couples, states.reshape(-1, 2, d), prompts[::2], lengths)


def sample(
    pooled: Pool,
    *,
    seed: int,
    num_couples: int | None = None,
    bias: float = answers.RATER_BIAS,
    noise: float = answers.RATER_NOISE,
) -> Sample:
    """A part of the pool, annotated by the raters of this seed."""
    number = len(pooled.couples) if num_couples is None else num_couples
    rows = sorted(random.Random(f"part {seed}").sample(range(len(pooled.couples)), number))
    bench = answers.annotate([pooled.couples[i] for i in rows], seed=seed, bias=bias, noise=noise)
    place = np.array([rows[c] for c, _ in bench.couples])
    order = np.array([(best, 1 - best) for _, best in bench.couples])
    names = list(bench.ratings[0].ratings)
    return Sample(
        pooled.states[place[:, None], order].astype(np.float64),
        pooled.prompts[place].astype(np.float64),
        pooled.lengths[place[:, None], order],
        np.array([pair.strength for pair in bench.pairs]),
        np.array([pair.source for pair in bench.pairs]),
        [pair.key for pair in bench.pairs],
        np.array(bench.worth),
        pooled.states[rows].reshape(-1, pooled.states.shape[-1]).astype(np.float64),
        {name: np.array([r.ratings[name] for r in bench.ratings]) for name in names},
        [r.key for r in bench.ratings],
        pooled.lengths[rows].reshape(-1),
    )


def part(whole: Sample, pairs: np.ndarray, rated: np.ndarray) -> Sample:
    """Some of the pairs and some of the rated answers, by masks."""
    return Sample(
        whole.states[pairs],
        whole.prompts[pairs],
        whole.lengths[pairs],
        whole.strength[pairs],
        whole.domain[pairs],
        [g for g, kept in zip(whole.group, pairs, strict=True) if kept],
        whole.worth[pairs],
        whole.rated[rated],
        {name: values[rated] for name, values in whole.labels.items()},
        [g for g, kept in zip(whole.rated_groups, rated, strict=True) if kept],
        whole.rated_lengths[rated],
    )


if __name__ == "__main__":
    for name in ("test", "train"):
        for states in POOLINGS:
            print(name, states, pool(name, states).states.shape)
