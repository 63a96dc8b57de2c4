"""Calibration: how sure a difference of scores is, and scores in units that mean something.

p(A better than B) = sigmoid((r_A - r_B) / temperature). The temperature can be folded into the head exactly;
an offset cannot, because the head has no bias, so servers that take `logit_mean` and `logit_sigma` get it
from `reward.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from niwaki.errors import DataError

NUM_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Bins of p from 0.5 up: how often the answer that the model prefers is the better one.

    Attributes:
        confidence, accuracy, count: of each bin that is not empty.
        ece: expected calibration error, the mean of |confidence - accuracy| weighted by count.
        brier: mean of (p - 1)^2 for the chosen answer's p.
        log_loss: mean of -log p.
    """

    confidence: list[float]
    accuracy: list[float]
    count: list[int]
    ece: float
    brier: float
    log_loss: float


def fit_temperature(gaps: np.ndarray) -> float:
    """The temperature with the smallest log loss on validation pairs; `gaps` [m] are chosen minus rejected.

    Raises:
        DataError: every pair is in order (or none): no temperature is best.
    """
    gaps = _finite(gaps)
    if (gaps > 0).all() or (gaps <= 0).all():
        raise DataError(
            f"{'All' if (gaps > 0).all() else 'None'} of the {len(gaps)} pairs are in order, so no "
            "temperature is best.",
            "Calibrate on more, or harder, pairs.",
        )
    spread = float(gaps.std()) or 1.0
    found = minimize_scalar(
        lambda t: np.logaddexp(0, -gaps / (spread * np.exp(t))).mean(), bounds=(-8, 8), method="bounded"
    )
    return float(spread * np.exp(found.x))


def fit_affine(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(slope, offset) of least squares, so that slope x score + offset is in the labels' units."""
    known = np.isfinite(labels)
    slope, offset = np.polyfit(_finite(scores)[known], labels[known], 1)
    return float(slope), float(offset)


def reliability(gaps: np.ndarray, temperature: float, *, num_bins: int = NUM_BINS) -> Reliability:
    """How calibrated the differences of scores are, on pairs [m]; a tie has p = 0.5 and counts half right."""
    gaps = _finite(gaps)
    p = 1 / (1 + np.exp(-np.clip(gaps / temperature, -60, 60)))
    confidence = np.maximum(p, 1 - p)
    right = np.where(gaps == 0, 0.5, (gaps > 0).astype(float))
    bins = np.minimum(((confidence - 0.5) * 2 * num_bins).astype(int), num_bins - 1)
    filled = [b for b in range(num_bins) if (bins == b).any()]
    means = [float(confidence[bins == b].mean()) for b in filled]
    accuracies = [float(right[bins == b].mean()) for b in filled]
    counts = [int((bins == b).sum()) for b in filled]
    ece = sum(c * abs(m - a) for m, a, c in zip(means, accuracies, counts, strict=True)) / len(gaps)
    return Reliability(
        means,
        accuracies,
        counts,
        float(ece),
        float(((1 - p) ** 2).mean()),
        float(np.logaddexp(0, -gaps / temperature).mean()),
    )


def serving(scores: np.ndarray) -> dict[str, Any]:
    """What a server is given so that its scores have mean 0 and deviation 1 over a reference set."""
    mean, sigma = float(_finite(scores).mean()), float(scores.std())
    return {
        "logit_mean": mean,
        "logit_sigma": sigma,
        "vllm": f'--pooler-config \'{{"logit_mean": {mean:.6g}, "logit_sigma": {sigma:.6g}}}\'',
    }


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise DataError(
            f"{len(values)} scores, first that is not finite at {int(np.argmin(np.isfinite(values)))}."
            if len(values)
            else "There are no scores.",
            "Score in float32, and check the model with `niwaki lint`.",
        )
    return values
