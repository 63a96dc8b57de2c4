"""SparseGPT (arXiv 2301.00774) for N:M patterns: prune column after column, let the rest make up for it.

In: a weight W and the Gram matrix X^T X of its inputs. Out: the mask, and the weights that survive, changed
so that W X^T stays near. With H = X^T X + damping, going through the columns in order, the weights that a
group of columns may lose are those of least w^2 / [H^-1]^2, taken on the Cholesky factor of H^-1, whose row
j is that of the inverse with all earlier columns removed; what they leave over is spread over the columns
behind them.

Everything is computed transposed, [in, out], so that a column of W is contiguous.

Shapes: I inputs, O outputs (rows of any number of matrices with the same inputs), M of the pattern.
"""

from __future__ import annotations

import torch
from torch import Tensor

from niwaki.errors import DataError
from niwaki.masks.patterns import Pattern

_MORE_DAMPING = (1.0, 10.0, 100.0)


def sparsegpt(
    weight_OI: Tensor,
    gram_II: Tensor,
    pattern: Pattern,
    *,
    damping: float = 0.01,
    block_columns: int = 128,
) -> tuple[Tensor, Tensor]:
    """The mask and the updated weights.

    Args:
        weight_OI: left as it is.
        gram_II: sum over tokens of x x^T, at any scale.
        damping: added to the diagonal, relative to its mean.
        block_columns: columns after which the rest of the matrix catches up; no result depends on it beyond
            rounding.

    Returns:
        Candidate numbers [O * I / M], and the weights [O, I] in float32 with zeros where the mask has them.

    Raises:
        DataError: the Gram matrix is not finite, or no damping makes it positive definite.
    """
    factor_II, is_dead_I = _inverse_factor(gram_II, damping)
    left_IO = weight_OI.float().T.clone(memory_format=torch.contiguous_format)
    left_IO[is_dead_I] = 0
    size = -(-block_columns // pattern.group) * pattern.group
    dropped_IO = torch.empty_like(left_IO, dtype=torch.bool)
    for start in range(0, len(left_IO), size):
        end = min(start + size, len(left_IO))
        errors_IO = _block(
            left_IO[start:end], factor_II[start:end, start:end], pattern, dropped_IO[start:end]
        )
        if end < len(left_IO):
            left_IO[end:].addmm_(factor_II[start:end, end:].T, errors_IO, alpha=-1)
    return pattern.numbers(~dropped_IO.T), left_IO.T.contiguous()


def _block(left_IO: Tensor, factor_II: Tensor, pattern: Pattern, dropped_IO: Tensor) -> Tensor:
    """Prune a block of columns in place, fill in `dropped_IO`; the errors that are still to be spread."""
    diagonal_I = factor_II.diagonal()
    errors_IO = torch.empty_like(left_IO)
    for first in range(0, len(left_IO), pattern.group):
        end = first + pattern.group
        group_MO = left_IO[first:end]
        scores_MO = (group_MO / diagonal_I[first:end, None]).square()
        dropped_MO = torch.logical_not(pattern.keeps(scores_MO), out=dropped_IO[first:end])
        for place in range(pattern.group):
            column = first + place
            lost_O = left_IO[column] * dropped_MO[place]
            error_O = errors_IO[column]
            torch.div(lost_O, diagonal_I[column], out=error_O)
            left_IO[column] -= lost_O
            if column + 1 < end:
                left_IO[column + 1 : end].addr_(factor_II[column, column + 1 : end], error_O, alpha=-1)
        if end < len(left_IO):
            left_IO[end:].addmm_(factor_II[first:end, end:].T, errors_IO[first:end], alpha=-1)
    return errors_IO


def _inverse_factor(gram_II: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The upper U with U^T U = (H + damping)^-1, and which inputs are always zero."""
    if not bool(gram_II.isfinite().all()):
        raise DataError(
            "SparseGPT: the activations of the calibration rows are not finite.",
            "Run the model in bfloat16 or float32, or look at the rows.",
        )
    hessian_II = gram_II.float().clone()
    diagonal_I = hessian_II.diagonal()
    is_dead_I = diagonal_I == 0
    diagonal_I[is_dead_I] = 1
    added = damping * diagonal_I.mean()
    for more in _MORE_DAMPING:
        damped_II = hessian_II + more * added * torch.eye(len(hessian_II), device=hessian_II.device)
        lower_II, failed = torch.linalg.cholesky_ex(damped_II)
        if not failed:
            upper_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_II), upper=True)
        if not failed:
            return upper_II, is_dead_I
    raise DataError(
        f"SparseGPT: the Gram matrix of {len(gram_II)} inputs is not positive definite, even with a damping "
        f"of {_MORE_DAMPING[-1] * damping:g}.",
        "Use more calibration rows, or more damping.",
    )
