"""Ridge least squares for one matrix, from running sums over tokens.

Shapes: N tokens, F inputs and D outputs of the matrix; a bias counts as one more input that is always one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from niwaki.ground import processes

# Relative to the mean of the diagonal of X^T X.
RIDGES = (1e-8, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Moments:
    """Sums over tokens of X^T X, X^T R, |R|^2 and |Y|^2 in float64, where R = Y - X W is what W leaves over.

    They are sums of differences from the matrix as it is, so that a good one loses no digits.
    """

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear
        num_inputs = linear.in_features + (linear.bias is not None)
        options: dict[str, Any] = {"dtype": torch.float64, "device": linear.weight.device}
        self.xx_FF = torch.zeros(num_inputs, num_inputs, **options)
        self.xr_FD = torch.zeros(num_inputs, linear.out_features, **options)
        self.rr = torch.zeros((), **options)
        self.yy = torch.zeros((), **options)

    def add(self, x_NF: Tensor, y_ND: Tensor) -> None:
        """Add tokens: inputs of the matrix, and the outputs wanted of it."""
        x_NF, y_ND = x_NF.double(), y_ND.double()
        bias = self._linear.bias
        r_ND = y_ND - x_NF @ self._linear.weight.double().T
        if bias is not None:
            r_ND -= bias.double()
            x_NF = torch.cat([x_NF, torch.ones_like(x_NF[:, :1])], dim=1)
        self.xx_FF.addmm_(x_NF.T, x_NF)
        self.xr_FD.addmm_(x_NF.T, r_ND)
        self.rr += r_ND.square().sum()
        self.yy += y_ND.square().sum()

    def add_up(self) -> None:
        """Make the sums those over the tokens of all processes."""
        processes.add_up([self.xx_FF, self.xr_FD, self.rr, self.yy])

    def __add__(self, other: Moments) -> Moments:
        """The sums over the tokens of both."""
        both = Moments(self._linear)
        for name in ("xx_FF", "xr_FD", "rr", "yy"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def error(self, change_FD: Tensor | None = None) -> float:
        """|R - X C|^2 / |Y|^2 for a change C of the matrix; without one, of the matrix as it is."""
        rr = self.rr
        if change_FD is not None:
            rr = rr + (change_FD * (self.xx_FF @ change_FD - 2 * self.xr_FD)).sum()
        return float(rr.clamp_min(0) / self.yy.clamp_min(torch.finfo(torch.float64).tiny))

    def change(self, ridge: float) -> Tensor:
        """The C [F, D] of least |R - X C|^2 + ridge * mean(diag(X^T X)) * |C|^2."""
        shift = ridge * self.xx_FF.diagonal().mean()
        shifted_FF = self.xx_FF + shift * torch.eye(len(self.xx_FF), dtype=shift.dtype, device=shift.device)
        return torch.linalg.solve(shifted_FF, self.xr_FD)


def solve(fitted: Moments, checked: Moments, ridges: Sequence[float] = RIDGES) -> tuple[float | None, Tensor]:
    """A ridge, and the change [F, D] of the matrix that it gives on the tokens of both.

    The ridge is the one whose change, fitted on `fitted`, leaves least error on `checked`. When none leaves
    less than the matrix as it is: (None, zeros).
    """
    both = fitted + checked
    if not bool((fitted.xx_FF.diagonal() > 0).any()):
        return None, torch.zeros_like(both.xr_FD)
    errors = {ridge: checked.error(fitted.change(ridge)) for ridge in ridges}
    best = min(errors, key=lambda ridge: errors[ridge])
    if errors[best] >= checked.error():
        return None, torch.zeros_like(both.xr_FD)
    return best, both.change(best)


def apply(linear: nn.Linear, change_FD: Tensor) -> None:
    """Add a change to a matrix, and to its bias if it has one, in place."""
    linear.weight.add_(change_FD[: linear.in_features].T.to(linear.weight.dtype))
    if linear.bias is not None:
        linear.bias.add_(change_FD[-1].to(linear.bias.dtype))
