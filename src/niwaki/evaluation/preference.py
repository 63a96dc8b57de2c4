"""How well a reward model orders pairs: accuracy with intervals, by subset, and by length.

In: the difference of scores, chosen minus rejected, of each pair. A pair is right when it is above 0; a tie
is wrong, as in RewardBench. Intervals come from resampling prompts, not pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from niwaki.errors import EvaluationError
from niwaki.ground.stats import Interval, bootstrap_mean, paired_difference


def pair_accuracy(gaps: np.ndarray, groups: Sequence[str] | None = None, *, seed: int = 0) -> Interval:
    """Share of pairs in order, with a bootstrap interval over prompts (`groups` [m]).

    Raises:
        EvaluationError: a score is not finite, or there are fewer than two prompts.
    """
    sums, counts = _by_group(_right(gaps), groups)
    return bootstrap_mean(sums, counts=counts, seed=seed)


def compare_pairs(
    first: np.ndarray, second: np.ndarray, groups: Sequence[str] | None = None, *, seed: int = 0
) -> Interval:
    """Accuracy of the first model minus that of the second on the same pairs, with a paired interval.

    Raises:
        EvaluationError: they were not measured on the same pairs.
    """
    if len(first) != len(second):
        raise EvaluationError(
            f"One model has {len(first)} pairs, the other {len(second)}.", "Score both on the same pairs."
        )
    a, counts = _by_group(_right(first), groups)
    b, _ = _by_group(_right(second), groups)
    return paired_difference(a, b, counts=counts, seed=seed)


def judge_pairs(
    gaps: np.ndarray,
    *,
    subsets: Sequence[str],
    lengths: np.ndarray,
    groups: Sequence[str] | None = None,
    strengths: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Everything that is reported of one model on one set of pairs.

    Args:
        lengths: [m, 2] tokens of chosen and rejected.
        strengths: of each pair; accuracy is then told by strength.

    Returns:
        `accuracy`, `by_subset`, `by_length` (chosen longer, shorter), `length_correlation` (of the two
        differences, by rank), `ties`, `correct` (one flag a pair, for paired tests).
    """
    right = _right(gaps)
    longer = lengths[:, 0] - lengths[:, 1]
    found: dict[str, Any] = {
        "num_pairs": len(gaps),
        "accuracy": asdict(pair_accuracy(gaps, groups)),
        "by_subset": _shares(right, np.array(subsets)),
        "by_length": _shares(
            right, np.where(longer > 0, "chosen longer", np.where(longer < 0, "chosen shorter", "equal"))
        ),
        "length_correlation": _rank_correlation(gaps, longer),
        "ties": int((gaps == 0).sum()),
        "correct": "".join(str(int(r)) for r in right),
    }
    if strengths is not None:
        found["by_strength"] = _shares(right, np.array([f"{s:g}" for s in strengths]))
    return found


def _right(gaps: np.ndarray) -> np.ndarray:
    gaps = np.asarray(gaps, dtype=np.float64)
    if not np.isfinite(gaps).all():
        raise EvaluationError(
            f"Pair {int(np.argmin(np.isfinite(gaps)))} has a score that is not finite.",
            "Score in float32, and check the model with `niwaki lint`.",
        )
    return (gaps > 0).astype(float)


def _by_group(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts a prompt."""
    if groups is None:
        return values, np.ones(len(values))
    _, which = np.unique(np.array(groups), return_inverse=True)
    return np.bincount(which, weights=values), np.bincount(which).astype(float)


def _shares(right: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        str(label): {
            "accuracy": float(right[labels == label].mean()),
            "num_pairs": int((labels == label).sum()),
        }
        for label in sorted(set(labels.tolist()))
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    if len(set(a.tolist())) < 2 or len(set(b.tolist())) < 2:
        return None
    return float(spearmanr(a, b).statistic)
