"""How fast a 2:4 product runs here, shape by shape, against the dense one. Measured, and nothing promised.

`torch.sparse.to_sparse_semi_structured` needs a GPU with sparse tensor cores, 16-bit weights, 2:4, and sizes
that its kernels take. On decoding, with few tokens at once, it is often slower than the dense product
(pytorch/pytorch#111339, pytorch/ao#1460).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from niwaki.masks.file import MaskFile
from niwaki.masks.patterns import Pattern

TOKENS = (1, 64, 512, 2048)
_WARM_UP, _REPEATS = 3, 20
_FEWEST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class ShapeSpeed:
    """One matrix product of `tokens` rows; medians in seconds, and why there is no sparse one."""

    out: int
    inputs: int
    tokens: int
    dense_s: float
    sparse_s: float | None
    reason: str = ""


def measure_shapes(mask: MaskFile, tokens: Sequence[int] = TOKENS) -> list[ShapeSpeed] | None:
    """Every different shape that a 2:4 mask covers; None where there is no GPU for it, or another pattern."""
    if mask.pattern != Pattern(2, 4) or not torch.cuda.is_available():
        return None
    if torch.cuda.get_device_capability() < _FEWEST_CAPABILITY:
        return None
    shapes = sorted({shape[-2:] for shape in mask.shapes.values()})
    return [_measure(shape[0], shape[1], num, mask.pattern) for shape in shapes for num in tokens]


def _measure(out: int, inputs: int, tokens: int, pattern: Pattern) -> ShapeSpeed:
    device, dtype = torch.device("cuda"), torch.bfloat16
    weight = torch.randn(out, inputs, device=device, dtype=dtype)
    weight *= pattern.mask(pattern.largest(weight.abs()), weight.shape)
    x = torch.randn(tokens, inputs, device=device, dtype=dtype)
    dense_s = _median_s(x, weight)
    try:
        sparse_s: float | None = _median_s(x, torch.sparse.to_sparse_semi_structured(weight))
        reason = ""
    except (RuntimeError, NotImplementedError, ValueError) as error:
        sparse_s, reason = None, str(error).splitlines()[0]
    return ShapeSpeed(out, inputs, tokens, dense_s, sparse_s, reason)


def _median_s(x: torch.Tensor, weight: torch.Tensor) -> float:
    times = []
    for turn in range(_WARM_UP + _REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        F.linear(x, weight)
        end.record()
        torch.cuda.synchronize()
        if turn >= _WARM_UP:
            times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[len(times) // 2]
