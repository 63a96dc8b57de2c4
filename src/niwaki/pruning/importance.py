"""Importances: for each axis one number per unit, larger is more important. What every measure returns.

`select` ranks by them. The file that keeps them is safetensors, one tensor per axis, so that any size can be
cut later without another pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from niwaki.errors import CheckpointError
from niwaki.ground.axes import PARENTS
from niwaki.ground.tensor_file import load_tensors, save_tensors

Importance = Mapping[str, Tensor]
"""axis -> importance: hidden [d], layer [L], ffn [L, F], kv [L, KV], group [L, KV, G], expert [L, E],
effn [L, E, F]; axes may be missing."""

_FORMAT = "niwaki-importance-1"


def unit_shape(axis: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of one axis' importance in a model of these `sizes`."""
    if axis in ("hidden", "layer"):
        return (sizes[axis],)
    parent = (sizes[PARENTS[axis]],) if axis in PARENTS else ()
    return (sizes["layer"], *parent, sizes[axis])


def save_importance(path: Path, importance: Importance, *, provenance: Mapping[str, Any]) -> None:
    """Write one safetensors file, whole or not at all. `provenance` (JSON-able) says how it was made."""
    save_tensors(path, importance, {"format": _FORMAT, "provenance": dict(provenance)})


def load_importance(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read importances and provenance that `save_importance` wrote.

    Raises:
        CheckpointError: the file is missing, damaged or another's.
    """
    importance, described = load_tensors(path, kind="importance", expected=_FORMAT)
    if not isinstance(described.get("provenance"), dict):
        raise CheckpointError(
            f"Importance file {path} does not say how it was made.", "Score the model again."
        )
    return importance, described["provenance"]
