"""How good are sampled answers: accuracy, pass@k, majority vote, and what a right answer costs in tokens.

In: for each question some graded samples. Out: numbers with intervals, over all questions and by domain.
An answer that the limit on its length cut off counts as wrong.

Sources: pass@k, M. Chen et al., arXiv 2107.03374, equation 1 (unbiased); majority, X. Wang et al.,
arXiv 2203.11171; tokens of right answers, arXiv 2504.13941, section 5. Conditioning on right answers has
survivorship bias (the hard questions leave with the wrong ones), so tokens are also given per right answer:
all that were spent, on wrong answers too.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from niwaki.errors import EvaluationError
from niwaki.ground.stats import Interval, bootstrap_mean, paired_difference

ALL = "all"


@dataclass(frozen=True)
class GradedSample:
    """One answer to a question: the verdict, what was graded, its length, and whether it came to an end."""

    correct: bool
    extracted: str | None
    num_tokens: int
    ended: bool


@dataclass(frozen=True)
class Answered:
    """A question with its samples; `samples[s]` are those of seed number s, the same number for each seed."""

    id: str
    benchmark: str
    domain: str
    samples: tuple[tuple[GradedSample, ...], ...]

    @property
    def flat(self) -> list[GradedSample]:
        """The samples of all seeds."""
        return [sample for of_seed in self.samples for sample in of_seed]


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of k samples is right, from `num_samples` of which `num_correct` are.

    Equation 1 of arXiv 2107.03374: 1 - C(n - c, k) / C(n, k).

    Raises:
        EvaluationError: k above the number of samples, or counts that are none.
    """
    if not (1 <= k <= num_samples and 0 <= num_correct <= num_samples):
        raise EvaluationError(
            f"pass@{k} of {num_correct} right in {num_samples} samples is not defined.",
            f"Draw at least {k} samples of each question.",
        )
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority(samples: Sequence[GradedSample]) -> float:
    """Chance that the most frequent answer is right; equally frequent ones are drawn from at random.

    Answers are the same when the same text was graded. Samples without an answer do not vote.
    """
    votes = [s for s in samples if s.extracted is not None and s.ended]
    if not votes:
        return 0.0
    counts = Counter(_ballot(s) for s in votes)
    most = max(counts.values())
    leading = {ballot for ballot, count in counts.items() if count == most}
    is_right = {_ballot(s): s.correct for s in votes}
    return sum(is_right[ballot] for ballot in leading) / len(leading)


def summarise(answered: Sequence[Answered], *, ks: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """The figures of one model, keyed by benchmark and by domain, and `all`.

    Intervals are of the questions: a bootstrap over them of the mean over their samples. `by_seed` has the
    accuracy of each seed, whose spread is that of sampling alone.

    Raises:
        EvaluationError: fewer than two questions in all.
    """
    groups: dict[str, dict[str, list[Answered]]] = {"benchmarks": defaultdict(list), "domains": {}}
    groups["domains"] = defaultdict(list)
    for one in answered:
        groups["benchmarks"][one.benchmark].append(one)
        groups["domains"][one.domain].append(one)
    return {ALL: _figures(answered, ks, seed)} | {
        kind: {name: _figures(own, ks, seed) for name, own in sorted(named.items()) if len(own) > 1}
        for kind, named in groups.items()
    }


def compare(before: Sequence[Answered], after: Sequence[Answered], *, seed: int = 0) -> dict[str, Any]:
    """Accuracy of `after` less that of `before` on the same questions, over all and by domain, paired.

    Raises:
        EvaluationError: the two were not asked the same questions in the same order.
    """
    if [one.id for one in before] != [one.id for one in after]:
        raise EvaluationError(
            "The two models were not asked the same questions.", "Evaluate both on the same files."
        )
    domains = sorted({one.domain for one in before})
    chosen = {ALL: range(len(before))} | {
        name: [i for i, one in enumerate(before) if one.domain == name] for name in domains
    }
    return {
        name: asdict(
            paired_difference([_share(after[i]) for i in at], [_share(before[i]) for i in at], seed=seed)
        )
        for name, at in chosen.items()
        if len(at) > 1
    }


def _figures(answered: Sequence[Answered], ks: Sequence[int], seed: int) -> dict[str, Any]:
    samples = [sample for one in answered for sample in one.flat]
    right = [sample for sample in samples if sample.correct]
    wrong = [sample for sample in samples if not sample.correct]
    num_samples = len(answered[0].flat)
    passes = {str(k): asdict(_pass_at(answered, k, seed)) for k in ks if k <= num_samples}
    return {
        "questions": len(answered),
        "samples": len(samples),
        "accuracy": asdict(_mean(answered, _share, seed)),
        "by_seed": [
            sum(s.correct for one in answered for s in one.samples[number])
            / max(1, sum(len(one.samples[number]) for one in answered))
            for number in range(len(answered[0].samples))
        ],
        "pass_at": passes,
        "majority": asdict(_mean(answered, lambda one: majority(one.flat), seed)),
        "tokens_of_right": _average([s.num_tokens for s in right]),
        "tokens_of_wrong": _average([s.num_tokens for s in wrong]),
        "tokens_per_right": _tokens_per_right(answered, seed),
        "truncated": sum(not s.ended for s in samples) / len(samples),
    }


def _tokens_per_right(answered: Sequence[Answered], seed: int) -> Mapping[str, float | None] | None:
    """All tokens for each right answer; None where there is none, and a bound of None has no limit."""
    if not any(_num_right(one) for one in answered):
        return None
    tokens = [float(sum(s.num_tokens for s in one.flat)) for one in answered]
    rights = [_num_right(one) for one in answered]
    # A resample without a right answer has no ratio, so the inverse is resampled: right answers per token.
    inverse = bootstrap_mean(rights, counts=tokens, seed=seed)
    return {
        "mean": 1 / inverse.mean,
        "low": 1 / inverse.high,
        "high": 1 / inverse.low if inverse.low > 0 else None,
    }


def _mean(answered: Sequence[Answered], value: Callable[[Answered], float], seed: int) -> Interval:
    return bootstrap_mean([value(one) for one in answered], seed=seed)


def _pass_at(answered: Sequence[Answered], k: int, seed: int) -> Interval:
    return _mean(answered, lambda one: pass_at_k(len(one.flat), _num_right(one), k), seed)


def _num_right(one: Answered) -> int:
    return sum(sample.correct for sample in one.flat)


def _share(one: Answered) -> float:
    return _num_right(one) / len(one.flat)


def _average(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _ballot(sample: GradedSample) -> str:
    return " ".join((sample.extracted or "").split()).casefold()
