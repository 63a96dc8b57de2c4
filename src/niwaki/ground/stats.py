"""How sure a measured number is: bootstrap intervals over rows, and Wilson intervals for proportions.

In: one number per independent unit (a row of text, a question), never per token: tokens of one row are
correlated, and treating them as independent makes every interval too narrow. Out: an `Interval`.

Sources: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), section 13 (percentile
interval); E. B. Wilson, "Probable Inference" (JASA 22, 1927).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from niwaki.errors import EvaluationError

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate with the interval that holds the true value at the stated confidence."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Numbers,
    *,
    counts: Numbers | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `values` with its percentile bootstrap interval, resampling whole rows.

    With `counts`, `values` are the sums of rows that hold `counts` items each, and the mean is
    `sum(values) / sum(counts)` (a token-weighted mean); both are resampled together.

    Raises:
        EvaluationError: fewer than two rows, lengths that differ, a number that is not finite, or no items.
    """
    numerators = _column("values", values)
    denominators = np.ones_like(numerators) if counts is None else _column("counts", counts)
    if len(denominators) != len(numerators):
        raise EvaluationError(
            f"values has {len(numerators)} rows, counts {len(denominators)}; one count a row was expected.",
            "Pass the count of the same rows, in the same order.",
        )
    if (denominators < 0).any() or denominators.sum() == 0:
        raise EvaluationError(
            "counts are negative or all zero, so there is nothing to average.",
            "Use rows that hold at least one scored token.",
        )
    kept = denominators > 0
    numerators, denominators = numerators[kept], denominators[kept]
    num_rows = len(numerators)
    generator = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    for index in range(num_resamples):
        draw = generator.integers(0, num_rows, num_rows)
        resampled[index] = numerators[draw].sum() / denominators[draw].sum()
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high))


def paired_difference(
    a: Numbers,
    b: Numbers,
    *,
    counts: Numbers | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `a - b` where entry i of both was measured on the same row; see `bootstrap_mean` for `counts`.

    Pairing removes what the rows have in common (easy rows are easy for both models), so a difference
    can be certain although the two intervals overlap. An interval that excludes 0 is a difference.

    Raises:
        EvaluationError: lengths that differ, or what `bootstrap_mean` refuses.
    """
    first, second = _column("a", a), _column("b", b)
    if len(first) != len(second):
        raise EvaluationError(
            f"a has {len(first)} rows and b has {len(second)}; pairs were expected.",
            "Measure both models on the same rows.",
        )
    return bootstrap_mean(
        first - second, counts=counts, confidence=confidence, num_resamples=num_resamples, seed=seed
    )


def wilson(num_successes: int, num_trials: int, *, confidence: float = 0.95) -> Interval:
    """Proportion `num_successes / num_trials` with its Wilson score interval (sound near 0 and 1 too).

    Raises:
        EvaluationError: no trials, or more successes than trials.
    """
    if num_trials < 1 or not 0 <= num_successes <= num_trials:
        raise EvaluationError(
            f"{num_successes} successes in {num_trials} trials is not a proportion.",
            "Pass 0 <= num_successes <= num_trials and at least one trial.",
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    proportion = num_successes / num_trials
    shrink = 1 + z**2 / num_trials
    centre = (proportion + z**2 / (2 * num_trials)) / shrink
    half = z * (proportion * (1 - proportion) / num_trials + z**2 / (4 * num_trials**2)) ** 0.5 / shrink
    # At 0 and 1 the bound equals the proportion; rounding must not push it past.
    return Interval(proportion, min(centre - half, proportion), max(centre + half, proportion))


def _column(name: str, numbers: Numbers) -> np.ndarray:
    """The numbers as float64 [rows], or an error that says what is wrong with them."""
    column = np.asarray(numbers, dtype=np.float64)
    if column.ndim != 1 or len(column) < 2:
        raise EvaluationError(
            f"{name} has shape {tuple(column.shape)}; at least two rows were expected.",
            "Measure more rows: one row says nothing about the spread.",
        )
    if not np.isfinite(column).all():
        raise EvaluationError(
            f"{name} holds a number that is not finite, first at row {int(np.argmin(np.isfinite(column)))}.",
            "Check the model for NaN weights or overflow.",
        )
    return column
