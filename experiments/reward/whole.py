"""The training variants of arXiv 2410.01257 on the offline bench, every weight of the model trained.

    python experiments/reward/whole.py tune       # learning rates, on a seed of its own
    python experiments/reward/whole.py            # five seeds; the same command goes on

`sapling`, read at the last token as a stock reward model is, trained by the functions that `niwaki run`
calls. Every variant of a seed sees the same pairs once; regressions see the answers of these pairs twice,
with their ratings, as in the paper. Test pairs are on functions that nothing was trained on, judged by the
true worth. Each variant and seed leaves `results/whole/<variant>-<seed>.json`.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.ground.corpus import default_cache
from niwaki.reward.export import save_reward_model
from niwaki.reward.extrapolate import sweep
from niwaki.reward.model import Scorable, load_backbone, score_conversations
from niwaki.reward.records import Pair, prompt_key, side_of
from niwaki.reward.tokens import PairRows, PairTokens, RatingRows, encode_pairs, encode_ratings
from niwaki.reward.train import preference_loss, rating_loss, train
from niwaki.sapling import answers

RESULTS = Path(__file__).parent / "results" / "whole"
WORK = default_cache() / "experiments-reward-whole"
SEEDS = range(5)
TUNING_SEED = 1000
NUM_PAIRS, NUM_VALIDATION, NUM_TEST = 256, 100, 200
MAX_TOKENS = 144  # of a conversation: short functions, so that five seeds fit an hour of one core
BATCH_PAIRS, MICRO_PAIRS = 8, 2
REGRESSION_EPOCHS = 2  # as in the paper; preferences are seen once
HEAD_RATE_FACTOR = 10.0
RATES, RATES_AFTER = (3e-4, 1e-3, 2e-3), (3e-4, 1e-3)
GRID = (0.0, 0.5, 1.0, 1.52, 2.0, 3.0)
PAPER_A = 1.52

REGRESSION = "regression"
SCALED_AFTER, EXPO = "regression-scaled", "regression-scaled-expo"
# Variant -> (what it starts from, its loss); in the order in which they are made.
VARIANTS: dict[str, tuple[str | None, str]] = {
    REGRESSION: (None, "regression"),
    "scaled": (None, "scaled"),
    "regular": (None, "regular"),
    "margin": (None, "margin"),
    SCALED_AFTER: (REGRESSION, "scaled"),
    EXPO: (SCALED_AFTER, "expo"),
    "regression-regular": (REGRESSION, "regular"),
    "regression-margin": (REGRESSION, "margin"),
}
FIRST = ("regression", "scaled", "regular", "margin", "regression-scaled", "regression-scaled-expo")
LOSSES = ("regression", "scaled", "regular", "margin")
AFTER = "after regression"  # the rate of every Bradley-Terry loss that continues a regression


@dataclass(frozen=True)
class Annotated:
    """What one seed learns from: the pairs of its raters, their answers rated, and pairs to validate on."""

    train: PairTokens
    rated: Any
    held: PairTokens


def annotated(seed: int) -> Annotated:
    """Draw and annotate; no function is on both sides."""
    chat = load_backbone("sapling").chat
    bench = answers.annotate(answers.draw(7 * NUM_PAIRS, split="train", seed=seed), seed=seed)
    short, _ = encode_pairs(chat, bench.pairs, max_tokens=MAX_TOKENS)
    sides: dict[str, list[Pair]] = {"train": [], "validation": []}
    for pair in short.pairs:
        sides[_side(pair)].append(pair)
    train_pairs, held = sides["train"][:NUM_PAIRS], sides["validation"][:NUM_VALIDATION]
    assert (len(train_pairs), len(held)) == (NUM_PAIRS, NUM_VALIDATION)
    rows = {pair.row for pair in train_pairs}
    rated = [r for r in bench.ratings if r.row.rpartition("-")[0] in rows]
    return Annotated(
        encode_pairs(chat, train_pairs, max_tokens=MAX_TOKENS)[0],
        encode_ratings(chat, rated, ("helpfulness",), max_tokens=MAX_TOKENS)[0],
        encode_pairs(chat, held, max_tokens=MAX_TOKENS)[0],
    )


def _side(pair: Pair) -> str:
    """By the function that is asked for, whichever way it is asked."""
    asked = pair.prompt[0]["content"].splitlines()[0]
    return side_of(prompt_key(({"role": "validation", "content": asked},)), test=0.0, validation=0.2)


def test_pairs() -> tuple[PairTokens, np.ndarray]:
    """The test pairs, the truly better answer first, and their true worths [m, 2]."""
    couples = answers.draw(5 * NUM_TEST, split="test", seed=0)
    bench = answers.annotate(couples, seed=0, bias=0.0, noise=0.0)
    worth = {pair.row: both for pair, both in zip(bench.pairs, bench.worth, strict=True)}
    short, _ = encode_pairs(load_backbone("sapling").chat, bench.pairs, max_tokens=MAX_TOKENS)
    assert len(short) >= NUM_TEST, len(short)
    tokens = PairTokens(short.pairs[:NUM_TEST], short.chosen[:NUM_TEST], short.rejected[:NUM_TEST])
    return tokens, np.array([worth[pair.row] for pair in tokens.pairs])


def fitted(start: str | Path, loss: str, data: Annotated, rate: float, seed: int, work: Path) -> Scorable:
    """Train one variant from `start`; a killed training goes on."""
    scorable = load_backbone(start, labels=("helpfulness",) if loss == "regression" else ("reward",))
    regression = loss == "regression"
    batch = 2 * BATCH_PAIRS if regression else BATCH_PAIRS
    rows: Any = (
        RatingRows(data.rated, pad_id=scorable.pad_id, batch_rows=batch, seed=seed)
        if regression
        else PairRows(data.train, pad_id=scorable.pad_id, batch_rows=batch, seed=seed)
    )
    num = REGRESSION_EPOCHS * len(data.rated) if regression else len(data.train)
    train(
        scorable.model,
        rows,
        rating_loss if regression else preference_loss(loss),  # type: ignore[arg-type]
        out=work,
        num_steps=num // batch,
        batch_rows=batch,
        micro_rows=2 * MICRO_PAIRS if regression else MICRO_PAIRS,
        learning_rate=rate,
        head_rate_factor=HEAD_RATE_FACTOR,
        precision="float32",
        seed=seed,
        save_every_steps=40,
        label=loss,
    )
    return scorable


def gaps(scorable: Scorable, tokens: PairTokens) -> np.ndarray:
    """Score of the first answer minus that of the second, [m]."""
    both = [c for pair in zip(tokens.chosen, tokens.rejected, strict=True) for c in pair]
    scores = score_conversations(scorable, both, batch_rows=16)[:, 0].reshape(-1, 2)
    found: np.ndarray = scores[:, 0] - scores[:, 1]
    return found


def held_out(scorable: Scorable, tokens: PairTokens) -> tuple[float, float]:
    """Accuracy and loss on validation pairs, by the raters' order."""
    found = gaps(scorable, tokens)
    return float((found > 0).mean()), float(np.logaddexp(0, -found).mean())


def tune() -> None:
    """Every rate for every loss, on a seed that is not among the five; again to go on."""
    data, path = annotated(TUNING_SEED), RESULTS / "tuning.json"
    tried: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in (*LOSSES, AFTER):
        for rate in RATES_AFTER if name == AFTER else RATES:
            if str(rate) in tried.get(name, {}):
                continue
            began, work = time.process_time(), WORK / "tuning" / f"{name}-{rate:g}"
            best = WORK / "tuning" / f"regression-{chosen_rates(tried)['regression']:g}" if tried else work
            if name == AFTER and not (best / "model").exists():
                first = fitted(
                    "sapling", REGRESSION, data, chosen_rates(tried)[REGRESSION], TUNING_SEED, best
                )
                save_reward_model(first, best / "model", card={"loss": REGRESSION}, replace=True)
            start, loss = (best / "model", "scaled") if name == AFTER else ("sapling", name)
            scorable = fitted(start, loss, data, rate, TUNING_SEED, work)
            save_reward_model(scorable, work / "model", card={"loss": loss}, replace=True)
            accuracy, value = held_out(scorable, data.held)
            tried.setdefault(name, {})[str(rate)] = {
                "accuracy": accuracy,
                "loss": value,
                "cpu_s": round(time.process_time() - began),
            }
            print(name, rate, tried[name][str(rate)], flush=True)
            path.write_text(json.dumps(tried, indent=1))
    shutil.rmtree(WORK / "tuning", ignore_errors=True)


def chosen_rates(tried: dict[str, dict[str, Any]]) -> dict[str, float]:
    """For each loss the rate with the best validation accuracy."""
    return {loss: float(max(found, key=lambda r: found[r]["accuracy"])) for loss, found in tried.items()}


def make(variant: str, seed: int, data: Annotated, test: PairTokens, rates: dict[str, float]) -> None:
    """One variant of one seed: its model in the work folder, its result beside this file."""
    began, folder = time.process_time(), WORK / str(seed)
    start, loss = VARIANTS[variant]
    found: dict[str, Any] = {"variant": variant, "seed": seed}
    if loss == "expo":
        scorable = load_backbone(folder / SCALED_AFTER)
        before = load_backbone(folder / REGRESSION).model.state_dict()
        on_test: dict[float, np.ndarray] = {}
        steps = iter(GRID)

        def measure(_: Any) -> tuple[float, float]:
            a = next(steps)
            if a == PAPER_A:
                on_test[a] = gaps(scorable, test)
            return held_out(scorable, data.held)

        found["expo"] = sweep(scorable.model, before, measure, grid=GRID)
        found["paper_a_accuracy"] = float((on_test[PAPER_A] > 0).mean())
    else:
        origin = "sapling" if start is None else folder / start
        rate = rates[loss if start is None else AFTER]
        scorable = fitted(origin, loss, data, rate, seed, folder / f"{variant}-training")
        if variant in (REGRESSION, SCALED_AFTER):  # others start from these
            save_reward_model(scorable, folder / variant, card={"loss": loss}, replace=True)
        shutil.rmtree(folder / f"{variant}-training")
    on = gaps(scorable, test)
    found |= {
        "accuracy": float((on > 0).mean()),
        "right": "".join("1" if gap > 0 else "0" for gap in on),
        "cpu_s": round(time.process_time() - began),
    }
    (RESULTS / f"{variant}-{seed}.json").write_text(json.dumps(found, indent=1))
    print(seed, variant, round(found["accuracy"], 3), f"{found['cpu_s']} s", flush=True)


def describe(test: PairTokens, worth: np.ndarray, rates: dict[str, float]) -> None:
    """What every variant is judged beside: the longer answer, and how far apart the pairs are."""
    lengths, best = test.lengths(), worth[:, 0] - worth[:, 1]
    tokens = [len(c.ids) for c in (*test.chosen, *test.rejected)]
    found = {
        "num_pairs": NUM_PAIRS,
        "num_test": len(test),
        "steps": {"preference": NUM_PAIRS // BATCH_PAIRS, "regression": NUM_PAIRS * 2 // BATCH_PAIRS},
        "rates": rates,
        "mean_tokens": float(np.mean(tokens)),
        "longer": "".join("1" if a > b else "0" for a, b in lengths),
        "third_by_worth": "".join(str(math.floor(3 * r / len(best))) for r in np.argsort(np.argsort(best))),
        "groups": [pair.key for pair in test.pairs],
    }
    (RESULTS / "test.json").write_text(json.dumps(found))


def main() -> None:
    test, worth = test_pairs()
    rates = chosen_rates(json.loads((RESULTS / "tuning.json").read_text()))
    describe(test, worth, rates)
    # The six that the paper's order is about first, in all seeds; then the rest.
    for variants in (FIRST, tuple(VARIANTS)):
        for seed in SEEDS:
            missing = [v for v in variants if not (RESULTS / f"{v}-{seed}.json").exists()]
            data = annotated(seed) if missing else None
            for variant in missing:
                assert data is not None
                make(variant, seed, data, test, rates)
    shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["tune"]:
        tune()
    else:
        main()
