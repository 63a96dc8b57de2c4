"""Where one tensor goes in a cut, and how it is cut when it does not come whole, but some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from niwaki.ground.axes import Keep, index_select
from niwaki.ground.patterns import Match


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


def place(match: Match, keep: Keep) -> tuple[str, Keep] | None:
    """Find the new name of a tensor, and the part of `keep` that cuts it; None when its layer or expert goes.

    Args:
        match: the tensor's line in the table.
        keep: axis -> kept indices, of the whole model.
    """
    indices = dict(keep)
    numbers: dict[str, int] = {}
    for axis, number in (("layer", match.layer), ("expert", match.expert)):
        if number is None:
            continue
        kept = indices.pop(axis, None)
        if kept is not None and kept.ndim == 2:
            kept = kept[match.layer]
        position = number if kept is None else _position(kept, number)
        if position is None:
            return None
        numbers[axis] = position
    if match.expert is not None and "effn" in indices and indices["effn"].ndim == 3:
        indices["effn"] = indices["effn"][:, match.expert]
    return match.pattern.format(**numbers), indices


def _position(kept: Tensor, number: int) -> int | None:
    found = torch.nonzero(kept == number)
    return int(found[0]) if len(found) else None
