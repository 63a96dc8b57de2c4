"""A safetensors file with a description, written whole or not at all: scores and importances are kept so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from niwaki.errors import CheckpointError
from niwaki.ground.folder import new_file


def save_tensors(path: Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
    """Write one file. `described` is JSON-able; its "format" is what `load_tensors` asks for.

    Raises:
        RunError: the disk refuses.
    """
    # One metadata entry: safetensors writes several in an order that changes from run to run.
    metadata = {"niwaki": json.dumps(described, sort_keys=True)}
    with new_file(path) as file:
        save_file({name: values.contiguous() for name, values in tensors.items()}, file, metadata)


def load_tensors(path: Path, *, kind: str, expected: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; the description comes without its "format".

    Args:
        kind: of file, in words, such as "score".
        expected: the "format" that it must have.

    Raises:
        CheckpointError: the file is missing, damaged or another's.
    """
    remedy = f"Give the {path.name} of a score stage, or score the model again."
    if not path.is_file():
        raise CheckpointError(f"{kind.capitalize()} file {path} does not exist.", remedy)
    try:
        with safe_open(path, framework="pt") as file:
            described = dict(json.loads((file.metadata() or {}).get("niwaki", "{}")))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{kind.capitalize()} file {path} is damaged: {error}.", remedy) from error
    if (found := described.pop("format", None)) != expected:
        raise CheckpointError(f"{path} is no {kind} file: its format is {found!r}, not {expected!r}.", remedy)
    return tensors, described
