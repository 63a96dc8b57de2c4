"""How one tensor is cut when it does not come whole, but some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from niwaki.ground.axes import index_select


@dataclass(frozen=True)
class Cut:
    """What is kept of one tensor.

    Attributes:
        name: its name in the trimmed model.
        kept: for each dimension of the tensor the kept indices, int64 and ascending.
        rescale: what is done to the kept values, one by one.
    """

    name: str
    kept: tuple[Tensor, ...]
    rescale: Callable[[Tensor], Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the trimmed tensor."""
        return tuple(len(indices) for indices in self.kept)

    def take(self, block: Tensor, first: int) -> Tensor:
        """Cut consecutive rows of the tensor, of which `block[0]` is row number `first`."""
        bounds = torch.tensor([first, first + len(block)])
        start, end = torch.searchsorted(self.kept[0], bounds).tolist()
        for dim, indices in enumerate((self.kept[0][start:end] - first, *self.kept[1:])):
            if len(indices) < block.shape[dim]:
                block = index_select(block, dim, indices)
        return self.rescale(block)
