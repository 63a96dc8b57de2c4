"""Tensors in several files, each with the rows that one process holds; any number of processes reads them.

In: named tensors, whole or in parts (`DTensor`, split by rows). Out: `NAME-K-of-N.safetensors`, and back into
tensors that are whole or split otherwise. Nothing is gathered, so no process holds more than its own rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from niwaki.ground import processes
from niwaki.ground.folder import flush


def write_parts(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Write what this process holds; of what is whole the main process has all, and the others nothing.

    Raises:
        OSError, SafetensorError: the disk refuses.
    """
    own: dict[str, Tensor] = {}
    first_rows: dict[str, int] = {}
    for key, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            own[key], first_rows[key] = tensor.to_local(), _first_row(tensor)
        elif processes.is_main():
            own[key] = tensor
    if not own:
        return
    num_files = processes.count() if first_rows else 1
    path = folder / f"{name}-{processes.number() + 1}-of-{num_files}.safetensors"
    save_file(
        {key: tensor.detach().cpu().contiguous() for key, tensor in own.items()},
        path,
        {"first rows": json.dumps(first_rows, sort_keys=True)},
    )
    flush(path)


def names_in(folder: Path, name: str) -> set[str]:
    """The names of the tensors that `write_parts` wrote."""
    names: set[str] = set()
    for path in _files(folder, name):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    return names


@torch.no_grad()
def read_parts(folder: Path, name: str, into: Mapping[str, Tensor]) -> None:
    """Copy what `write_parts` wrote into these tensors, in place: all rows, or those a `DTensor` holds."""
    for path in _files(folder, name):
        with safe_open(path, framework="pt") as file:
            first_rows = json.loads((file.metadata() or {}).get("first rows", "{}"))
            for key in set(file.keys()) & into.keys():
                _copy_rows(file, key, first_rows.get(key, 0), into[key])


def _copy_rows(file: Any, key: str, first_row: int, into: Tensor) -> None:
    own, own_first = (into.to_local(), _first_row(into)) if isinstance(into, DTensor) else (into, 0)
    if own.ndim == 0:
        own.copy_(file.get_tensor(key))
        return
    rows = file.get_slice(key)
    start = max(first_row, own_first)
    stop = min(first_row + rows.get_shape()[0], own_first + len(own))
    if start < stop:
        own[start - own_first : stop - own_first].copy_(rows[start - first_row : stop - first_row])


def _first_row(tensor: DTensor) -> int:
    assert tensor.placements == (Shard(0),), tensor.placements
    mesh = tensor.device_mesh
    share = -(-len(tensor) // mesh.size())  # of the first process; the last may have fewer, or none
    return min(mesh.get_local_rank() * share, len(tensor))


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-*-of-*.safetensors"))
