"""Take a nuisance, such as verbosity or length, out of every objective (arXiv 2406.12845, section 3.2).

r' = r T, where row v of T holds -lambda for every objective and T[v, v] is 0: the nuisance stops being an
objective and lives on as a penalty inside the others. Lambda is such that the rank correlation of r' with
the nuisance, over all answers of a reference set, is the target.

Shapes: n answers, K objectives, V nuisances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from niwaki.errors import DataError

PAPER_GRID = (
    0,
    0.01,
    0.025,
    *(round(0.025 * i, 3) for i in range(2, 6)),
    *(round(0.05 * i, 2) for i in range(3, 20)),
)
TOLERANCE = 0.03
_SWEEPS = 30
_BISECTIONS = 60


@dataclass(frozen=True)
class Debiasing:
    """What was found.

    Attributes:
        transform: T [K, K]; r' = r T for row vectors r.
        nuisances: indices of the objectives that went.
        lambdas: [V, K], how much of each nuisance was taken from each objective.
        before, after: [V, K], rank correlation with each nuisance on the reference set.
    """

    transform: np.ndarray
    nuisances: tuple[int, ...]
    lambdas: np.ndarray
    before: np.ndarray
    after: np.ndarray


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two columns [n]; NaN when one of them is constant."""
    ranks = [rankdata(column) - (len(column) + 1) / 2 for column in (a, b)]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / norm) if norm > 0 else float("nan")


def debias(
    rewards: np.ndarray,
    nuisances: Sequence[int],
    *,
    objectives: Sequence[str],
    observed: Sequence[np.ndarray | None] | None = None,
    target: float = 0.0,
    tolerance: float = TOLERANCE,
    one_sided: bool = False,
) -> Debiasing:
    """Find T on a reference set.

    Args:
        rewards: [n, K] of chosen and rejected answers alike.
        nuisances: indices of the objectives to take out.
        observed: what the correlation is measured with, for each nuisance: a column [n], such as the true
            length, or None for the predicted nuisance itself, as in the paper.
        one_sided: the paper's search: the smallest lambda of its grid with a correlation of at most
            `tolerance` (0 for an objective that correlates negatively).

    Raises:
        DataError: names an objective whose correlation cannot be brought to the target.
    """
    k = rewards.shape[1]
    measures = [
        rewards[:, v] if o is None else o
        for v, o in zip(nuisances, observed or [None] * len(nuisances), strict=True)
    ]
    predicted = rewards[:, list(nuisances)]
    lambdas = np.zeros((len(nuisances), k))
    before, after = np.zeros_like(lambdas), np.zeros_like(lambdas)
    for i in range(k):
        if i in nuisances:
            lambdas[:, i] = [1.0 if v == i else 0.0 for v in nuisances]
            before[:, i] = [spearman(rewards[:, i], m) for m in measures]
            continue
        before[:, i] = [spearman(rewards[:, i], m) for m in measures]
        if one_sided:
            lambdas[:, i] = [
                _first_of_grid(rewards[:, i], predicted[:, j], m, tolerance) for j, m in enumerate(measures)
            ]
        else:
            lambdas[:, i] = _two_sided(rewards[:, i], predicted, measures, target, tolerance)
        left = rewards[:, i] - predicted @ lambdas[:, i]
        after[:, i] = [spearman(left, m) for m in measures]
        off = after[:, i] - (0.0 if one_sided else target)
        if not np.all((off if one_sided else np.abs(off)) <= tolerance):
            names = ", ".join(objectives[v] for v in nuisances)
            raise DataError(
                f"objective {objectives[i]!r}: its correlation with {names} cannot be brought to {target:g} "
                f"(nearest: {', '.join(f'{a:.3f}' for a in after[:, i])}, tolerance {tolerance:g}).",
                "It follows the nuisance itself: remove one of the two, or raise the tolerance.",
            )
    transform = np.eye(k)
    for row, v in zip(lambdas, nuisances, strict=True):
        transform[v] = np.where(np.arange(k) == v, 0.0, -row)
    for v in nuisances:
        transform[:, v] = 0.0
    return Debiasing(transform, tuple(nuisances), lambdas, before, after)


def correlations(scores: np.ndarray, measures: Sequence[np.ndarray]) -> np.ndarray:
    """Rank correlation [V, K] of each column of `scores` [n, K] with each measure [n]."""
    return np.array([[spearman(column, m) for column in scores.T] for m in measures])


def _first_of_grid(reward: np.ndarray, nuisance: np.ndarray, measure: np.ndarray, threshold: float) -> float:
    for value in PAPER_GRID:
        if spearman(reward - value * nuisance, measure) <= threshold:
            return float(value)
    return float(PAPER_GRID[-1])


def _two_sided(
    reward: np.ndarray, predicted: np.ndarray, measures: Sequence[np.ndarray], target: float, tolerance: float
) -> np.ndarray:
    """One lambda a nuisance; each is found with the others held, until all correlations are at the target."""
    spread = reward.std() / np.maximum(predicted.std(axis=0), 1e-12)
    lambdas = np.zeros(predicted.shape[1])
    for _ in range(_SWEEPS if len(lambdas) > 1 else 1):
        for j, measure in enumerate(measures):
            rest = reward - predicted @ np.where(np.arange(len(lambdas)) == j, 0.0, lambdas)
            lambdas[j] = _bisect(rest, predicted[:, j], measure, target, 16 * spread[j])
        left = reward - predicted @ lambdas
        if all(abs(spearman(left, m) - target) <= tolerance / 10 for m in measures):
            break
    return lambdas


def _bisect(
    reward: np.ndarray, nuisance: np.ndarray, measure: np.ndarray, target: float, most: float
) -> float:
    """The lambda at which the correlation falls through the target."""
    low, high = -most, most
    best, nearest = 0.0, np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        off = spearman(reward - middle * nuisance, measure) - target
        if np.isnan(off):
            break
        if abs(off) < nearest:
            best, nearest = middle, abs(off)
        if nearest < 1e-4:
            break
        low, high = (middle, high) if off > 0 else (low, middle)
    return float(best)
