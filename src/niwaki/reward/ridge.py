"""Ridge regressions of many objectives from streamed normal equations (arXiv 2406.12845, section 3.1).

One pass over the features adds up, per bucket of prompts, X'X, X'Y and Y'Y in float64. Everything else comes
from these sums: the fit at every alpha, cross-validation by prompt, and bootstrap ensembles of heads. Memory
is that of the sums, whatever the number of rows.

A missing label (NaN) leaves its row out of its objective alone. Objectives that are labelled on the same rows
share one X'X: there is one for each pattern of labels.

Shapes: n rows, d features, K objectives, B buckets, P patterns of labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, get_blas_funcs

from niwaki.errors import DataError

ALPHAS = tuple(10.0**exponent for exponent in range(-4, 5))
_BLOCK_ROWS = 32768


class Normal:
    """The sums: `gram` {pattern: [B, d, d]}, `moment` [B, K, d], `square`, `total`, `count` [B, K]."""

    def __init__(self, num_features: int, objectives: Sequence[str], *, num_buckets: int = 20) -> None:
        d, k = num_features, len(objectives)
        self.objectives = tuple(objectives)
        self.num_buckets = num_buckets
        self.gram: dict[tuple[bool, ...], np.ndarray] = {}
        self.moment = np.zeros((num_buckets, k, d))
        self.square = np.zeros((num_buckets, k))
        self.total = np.zeros((num_buckets, k))
        self.count = np.zeros((num_buckets, k))
        self._d = d

    def add(self, x: np.ndarray, y: np.ndarray, buckets: np.ndarray) -> None:
        """Add rows: `x` [n, d], `y` [n, K] with NaN where missing, `buckets` [n] of their prompts."""
        known = ~np.isnan(y)
        patterns, which = np.unique(known, axis=0, return_inverse=True)
        which = which.reshape(-1)
        for bucket in np.unique(buckets):
            for number, pattern in enumerate(patterns):
                rows = np.flatnonzero((buckets == bucket) & (which == number))
                if len(rows) and pattern.any():
                    self._add_alike(x[rows], y[rows], int(bucket), pattern)

    def _add_alike(self, x: np.ndarray, y: np.ndarray, bucket: int, pattern: np.ndarray) -> None:
        key = tuple(bool(p) for p in pattern)
        if key not in self.gram:
            self.gram[key] = np.zeros((self.num_buckets, self._d, self._d))
        wide = np.asfortranarray(x.T, dtype=np.float64)
        # Half of the product: X'X is symmetric. Written in place, into one triangle.
        syrk = get_blas_funcs("syrk", (wide,))
        target = self.gram[key][bucket].T
        summed = syrk(1.0, wide, beta=1.0, c=target, overwrite_c=1)
        if not np.shares_memory(summed, target):
            target[...] = summed
        labels = np.where(pattern, y, 0.0).astype(np.float64)
        self.moment[bucket] += labels.T @ wide.T
        self.square[bucket] += (labels**2).sum(0)
        self.total[bucket] += labels.sum(0)
        self.count[bucket] += len(x) * pattern

    def pooled(self, weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each set of objectives with the same rows: indices, X'X [d, d], X'Y [k, d], weighted."""
        sets: dict[tuple[bool, ...], list[int]] = {}
        patterns = list(self.gram)
        for k in range(len(self.objectives)):
            sets.setdefault(tuple(p[k] for p in patterns), []).append(k)
        for used, columns in sets.items():
            gram = np.zeros((self._d, self._d))
            for pattern, wanted in zip(patterns, used, strict=True):
                if wanted:
                    gram += np.einsum("b,bij->ij", weights, self.gram[pattern])
            # `syrk` wrote one triangle.
            gram = np.tril(gram) + np.tril(gram, -1).T
            yield np.array(columns), gram, np.einsum("b,bkd->kd", weights, self.moment[:, columns])


@dataclass(frozen=True)
class Ridge:
    """Heads [K, d] and how they were chosen.

    Attributes:
        alphas: of each objective, the one with the lowest cross-validated error.
        mse, r2: cross-validated, of each objective; r2 is against predicting the mean label.
        curve: [alpha, K] cross-validated mean squared error.
        counts: labels of each objective.
    """

    objectives: tuple[str, ...]
    weight: np.ndarray
    alphas: np.ndarray
    mse: np.ndarray
    r2: np.ndarray
    curve: np.ndarray
    counts: np.ndarray


def bucket_of(groups: Sequence[str], num_buckets: int) -> np.ndarray:
    """The bucket of each row, by the hash of its prompt."""
    return np.array([int(g[:13], 16) % num_buckets for g in groups])


def gather(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    groups: Sequence[str],
    objectives: Sequence[str],
    *,
    num_buckets: int = 20,
) -> Normal:
    """One pass over `(features [n, d], labels [n, K])` blocks in the order of `groups`.

    Raises:
        DataError: an objective has no label, or a feature is not finite.
    """
    normal: Normal | None = None
    buckets = bucket_of(groups, num_buckets)
    start = 0
    for x, y in blocks:
        if normal is None:
            normal = Normal(x.shape[1], objectives, num_buckets=num_buckets)
        if not np.isfinite(x).all():
            raise DataError(f"Features of row {start + _first_bad(x)} are not finite.", "Make them again.")
        for at in range(0, len(x), _BLOCK_ROWS):
            part = slice(at, at + _BLOCK_ROWS)
            normal.add(x[part], y[part], buckets[start + at : start + at + len(x[part])])
        start += len(x)
    if normal is None:
        raise DataError("There are no features to fit on.", "Give rated answers.")
    for name, count in zip(objectives, normal.count.sum(0), strict=True):
        if count == 0:
            raise DataError(f"objective {name!r} has no labels.", "Remove it, or give rows that rate it.")
    return normal


def fit(normal: Normal, *, alphas: Sequence[float] = ALPHAS, num_folds: int = 5) -> Ridge:
    """Closed-form heads without intercept; alpha of each objective by cross-validation over prompts.

    The final heads are fitted on all rows. Raises DataError when there are fewer prompts than folds need.
    """
    num_buckets, k = normal.num_buckets, len(normal.objectives)
    fold = np.arange(num_buckets) % num_folds
    errors = np.zeros((len(alphas), k))
    for f in range(num_folds):
        inside, outside = (fold != f).astype(float), (fold == f).astype(float)
        held = {tuple(c): (gram, moment) for c, gram, moment in normal.pooled(outside)}
        for columns, gram, moment in normal.pooled(inside):
            held_gram, held_moment = held[tuple(columns)]
            square = normal.square[fold == f][:, columns].sum(0)
            for a, alpha in enumerate(alphas):
                w = _solve(gram, moment, alpha)
                quadratic = np.einsum("kd,kd->k", w @ held_gram, w)
                errors[a, columns] += square - 2 * np.einsum("kd,kd->k", w, held_moment) + quadratic
    counts = normal.count.sum(0)
    curve = errors / counts
    best = curve.argmin(0)
    chosen = np.array(alphas)[best]
    mse = curve[best, np.arange(k)]
    return Ridge(
        normal.objectives,
        heads(normal, chosen, np.ones(num_buckets)),
        chosen,
        mse,
        1 - mse / (normal.square.sum(0) / counts - (normal.total.sum(0) / counts) ** 2),
        curve,
        counts,
    )


def out_of_fold(
    normal: Normal,
    ridge: Ridge,
    blocks: Iterable[np.ndarray],
    groups: Sequence[str],
    *,
    num_folds: int = 5,
) -> np.ndarray:
    """Predictions [n, K], each by heads that never saw the row's prompt: a second pass over the features."""
    fold = np.arange(normal.num_buckets) % num_folds
    without = np.stack([heads(normal, ridge.alphas, (fold != f).astype(float)) for f in range(num_folds)])
    row_fold = fold[bucket_of(groups, normal.num_buckets)]
    found, start = [], 0
    for x in blocks:
        mine = row_fold[start : start + len(x)]
        part = np.empty((len(x), len(ridge.objectives)))
        for f in range(num_folds):
            part[mine == f] = x[mine == f] @ without[f].T
        found.append(part)
        start += len(x)
    return np.concatenate(found)


def heads(normal: Normal, alphas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Heads [K, d] at the given alpha of each objective, buckets weighted by `weights` [B]."""
    w = np.zeros((len(normal.objectives), normal._d))
    for columns, gram, moment in normal.pooled(weights):
        for alpha in np.unique(alphas[columns]):
            same = alphas[columns] == alpha
            w[columns[same]] = _solve(gram, moment[same], float(alpha))
    return w


def bootstrap(normal: Normal, alphas: np.ndarray, *, num_heads: int, seed: int = 0) -> np.ndarray:
    """Heads [num_heads, K, d], each fitted on buckets of prompts drawn with replacement.

    Their spread on an answer is the uncertainty of its score, at no extra forward pass.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_heads):
        drawn = rng.integers(0, normal.num_buckets, normal.num_buckets)
        found.append(heads(normal, alphas, np.bincount(drawn, minlength=normal.num_buckets).astype(float)))
    return np.stack(found)


def _solve(gram: np.ndarray, moment: np.ndarray, alpha: float) -> np.ndarray:
    """w [k, d] of (X'X + alpha I) w = X'y."""
    regular = gram.copy()
    regular[np.diag_indices_from(regular)] += alpha
    solved: np.ndarray = cho_solve(cho_factor(regular, overwrite_a=True), moment.T).T
    return solved


def _first_bad(x: np.ndarray) -> int:
    return int(np.argmin(np.isfinite(x).all(axis=1)))
