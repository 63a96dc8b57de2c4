"""The linear map of a head, one chunk of tokens after another, in one buffer.

Shapes: N tokens, V vocabulary, D hidden size; C tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from niwaki.ground.head import Head


class Projection:
    """hidden @ weight.T + bias of `hidden` [N, D], a chunk at a time; nothing here has a gradient."""

    def __init__(self, hidden: Tensor, head: Head) -> None:
        self.dtype = _product_dtype(hidden)
        self.hidden = hidden.detach().to(self.dtype)
        self.head = head
        self.weight = head.weight.detach().to(self.dtype)
        self.bias = None if head.bias is None else head.bias.detach().to(self.dtype)
        self._buffer: Tensor | None = None

    def products(self, tokens: slice) -> Tensor:
        """[C, V]; valid until the next call, and free to be overwritten."""
        hidden = self.hidden[tokens]
        if self._buffer is None:
            self._buffer = hidden.new_empty(len(hidden), len(self.weight))
        products = self._buffer[: len(hidden)]
        if self.bias is None:
            return torch.mm(hidden, self.weight.T, out=products)
        return torch.addmm(self.bias, hidden, self.weight.T, out=products)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax, loss and sums: float32 or better."""
    return torch.promote_types(dtype, torch.float32)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in `wide_dtype`; itself where it is so already."""
    return tensor.to(wide_dtype(tensor.dtype))


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """What a linear layer would compute in: autocast leaves float64 alone."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype
