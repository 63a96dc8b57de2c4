"""A change of the weights on their way from one folder to another, before they are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Edit:
    """What `trim` does to every tensor that it reads, at the teacher's full size.

    Attributes:
        name: what the record of the trim says of it; equal names mean equal edits.
        apply: (name of the tensor in the source, its values) -> its new values, in the same shape and dtype.
            A tied head comes under its own name when the edit unties it.
        unties: the result has a head of its own where the source ties it to the embedding.
    """

    name: str
    apply: Callable[[str, Tensor], Tensor]
    unties: bool = False
