"""The arithmetic of activation-based importance: activations in, one score per sample and unit out.

Minitron (arXiv 2407.14679, section 2.2): |x| in float32, aggregated over the valid tokens of each sample
(here), then over the samples (`scores.py`). Taking the axes in another order runs without complaint and
gives another, worse metric.

Shape suffixes: B samples, S tokens of a sample, N = B * S, T tokens of one expert, C units (channels,
neurons, heads), K = heads * head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SEQUENCE_AGGREGATIONS = ("mean", "l2", "var")

# The temporaries of one chunk should stay in the cache of a CPU core (larger ones are also given back to the
# system after every use, and cost page faults), and out of the memory peak anywhere.
_CPU_CHUNK_ELEMENTS = 2**18
_ACCELERATOR_CHUNK_ELEMENTS = 2**26


def over_tokens(x_BSC: Tensor, valid_BS: Tensor | None, sequence: Sequence[str]) -> dict[str, Tensor]:
    """Aggregate |x| over the valid tokens of each sample, in float32: {aggregation: [B, C]}.

    `valid_BS` is True at tokens that count; None means that all do. With n valid tokens in a sample, "mean"
    is sum|x| / n, "l2" is sqrt(sum x^2) and "var" is the mean squared deviation of |x| from its mean.
    """
    num_samples, num_tokens, num_units = x_BSC.shape
    limit = _chunk_elements(x_BSC)
    out = {name: x_BSC.new_empty(num_samples, num_units, dtype=torch.float32) for name in sequence}
    for rows in _slices(num_samples, limit // (num_tokens * num_units)):
        valid = None if valid_BS is None else valid_BS[rows].to(x_BSC.device)
        for units in _slices(num_units, limit // num_tokens):
            for name, values_BC in _aggregate(x_BSC[rows, :, units], valid, sequence).items():
                out[name][rows, units] = values_BC
    return out


def over_routed_tokens(
    x_TC: Tensor, sample_T: Tensor, num_samples: int, sequence: Sequence[str]
) -> dict[str, Tensor]:
    """Aggregate |x| over those tokens of each sample that reached one expert: {aggregation: [B, C]}.

    As `over_tokens`, for T tokens of which `sample_T` says the sample. A sample of which none arrived scores
    zero.
    """
    num_tokens, num_units = x_TC.shape
    sample_T = sample_T.to(x_TC.device)
    counts_B1 = torch.bincount(sample_T, minlength=num_samples).clamp_min(1)[:, None]
    out = {name: x_TC.new_zeros(num_samples, num_units, dtype=torch.float32) for name in sequence}
    for units in _slices(num_units, _chunk_elements(x_TC) // max(1, num_tokens)):
        size_TC = x_TC[:, units].float().abs()
        zeros_BC = size_TC.new_zeros(num_samples, size_TC.shape[1])
        mean_BC = zeros_BC.index_add(0, sample_T, size_TC) / counts_B1
        if "mean" in out:
            out["mean"][:, units] = mean_BC
        if "l2" in out:
            out["l2"][:, units] = zeros_BC.index_add(0, sample_T, size_TC.square()).sqrt()
        if "var" in out:
            squares_TC = (size_TC - mean_BC[sample_T]).square()
            out["var"][:, units] = zeros_BC.index_add(0, sample_T, squares_TC) / counts_B1
    return out


def head_norms(x_BSK: Tensor, head_dim: int) -> Tensor:
    """L2 norm of each head's output per token, in float32: [B, S, heads * head_dim] -> [B, S, heads]."""
    return torch.linalg.vector_norm(x_BSK.unflatten(-1, (-1, head_dim)), dim=-1, dtype=torch.float32)


def token_dots(x_BSC: Tensor, y_BSC: Tensor) -> Tensor:
    """Inner product of two vectors per token, in float32: [B, S]."""
    num_units = x_BSC.shape[-1]
    x_NC, y_NC = x_BSC.reshape(-1, num_units), y_BSC.reshape(-1, num_units)
    parts = _slices(len(x_NC), _chunk_elements(x_BSC) // num_units)
    dots = [(x_NC[part].float() * y_NC[part].float()).sum(-1) for part in parts]
    return torch.cat(dots).view(x_BSC.shape[:-1])


def cosines(dot_BS: Tensor, squared_x_BS: Tensor, squared_y_BS: Tensor) -> Tensor:
    """Cosine per token in float64, from `token_dots` of (x, y), (x, x) and (y, y).

    Exactly 1 where x equals y; 0 where one of them is zero.
    """
    lengths_BS = (squared_x_BS.double() * squared_y_BS.double()).sqrt()
    return dot_BS.double() / lengths_BS.masked_fill(lengths_BS == 0, 1)


def _aggregate(x_BSC: Tensor, valid_BS: Tensor | None, sequence: Sequence[str]) -> dict[str, Tensor]:
    size_BSC = x_BSC.float().abs()
    num_tokens: Tensor | int = size_BSC.shape[1]
    padding_BS1 = None
    if valid_BS is not None:
        padding_BS1 = ~valid_BS[..., None]
        num_tokens = (~padding_BS1).sum(1)
        size_BSC.masked_fill_(padding_BS1, 0)
    mean_BC = size_BSC.sum(1) / num_tokens
    out = {"mean": mean_BC} if "mean" in sequence else {}
    if "l2" in sequence:
        out["l2"] = size_BSC.square().sum(1).sqrt()
    if "var" in sequence:
        deviation_BSC = size_BSC - mean_BC[:, None]
        if padding_BS1 is not None:
            deviation_BSC.masked_fill_(padding_BS1, 0)
        out["var"] = deviation_BSC.square().sum(1) / num_tokens
    return out


def _chunk_elements(x_BSC: Tensor) -> int:
    return _CPU_CHUNK_ELEMENTS if x_BSC.device.type == "cpu" else _ACCELERATOR_CHUNK_ELEMENTS


def _slices(length: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(start, start + size) for start in range(0, length, size)]
