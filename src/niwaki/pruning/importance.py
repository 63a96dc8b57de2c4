"""Importances: for each axis one number per unit, larger is more important. What every measure returns.

`select` ranks by them. The file that keeps them is safetensors, one tensor per axis, so that any size can be
cut later without another pass.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from niwaki.errors import CheckpointError
from niwaki.ground.axes import PARENTS

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
    temporary = path.with_name(path.name + ".partial")
    described = {"format": _FORMAT, "provenance": dict(provenance)}
    # One metadata entry: safetensors writes several in an order that changes from run to run.
    metadata = {"niwaki": json.dumps(described, sort_keys=True)}
    save_file({axis: values.contiguous() for axis, values in importance.items()}, temporary, metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_importance(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read importances and provenance that `save_importance` wrote.

    Raises:
        CheckpointError: the file is missing, damaged or another's.
    """
    remedy = "Give the importance.safetensors of a score stage, or score the model again."
    if not path.is_file():
        raise CheckpointError(f"Importance file {path} does not exist.", remedy)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get("niwaki", "{}"))
            described = dict(described)
            importance = {axis: file.get_tensor(axis) for axis in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"Importance file {path} is damaged: {error}.", remedy) from error
    if described.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is not an importance file: its format is {described.get('format')!r}, not {_FORMAT!r}.",
            remedy,
        )
    if not isinstance(described.get("provenance"), dict):
        raise CheckpointError(f"Importance file {path} does not say how it was made.", remedy)
    return importance, described["provenance"]
