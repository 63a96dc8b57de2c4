"""Training checkpoints that resume exactly: trained weights and optimiser in safetensors, the step in JSON.

A snapshot is written beside its final name, flushed to disk and renamed, so a killed process leaves either
the whole snapshot or none; older ones go only after that. There is no random state to keep, because data
order and noise are functions of the step. Under FSDP2 the state is gathered, so a snapshot can be resumed
on another number of processes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from niwaki.errors import TrainingError
from niwaki.ground import processes
from niwaki.ground.folder import discard, flush
from niwaki.ground.spread import is_sharded

_SAVE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def newest(folder: Path, *, keep: int | None = None) -> Path | None:
    """The snapshot of the highest step in `folder`, if there is one.

    With `keep`, what a killed process left beside the newest so many is removed; collective then.
    """
    if keep is not None:
        _tidy(folder, keep)
    found = _all(folder)
    return found[-1] if found else None


def save(
    folder: Path, progress: tuple[int, int], model: nn.Module, optimizer: Optimizer, *, keep: int
) -> None:
    """Write `folder/step-N`, then drop all but the newest `keep`. Collective: every process calls it.

    `progress` is the step and the number of targets seen.

    Raises:
        TrainingError: the disk refused; the older snapshots are untouched.
    """
    weights = _own_tensors(dict(get_model_state_dict(model, options=_SAVE)))
    # What is frozen is where it was loaded from; a tied weight has several names.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            weights.pop(name.removeprefix("module."), None)
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_SAVE)
    _write(folder, progress, weights, moments, keep)


@processes.main_only
def _write(
    folder: Path,
    progress: tuple[int, int],
    weights: dict[str, Tensor],
    moments: dict[str, Any],
    keep: int,
) -> None:
    step, tokens = progress
    final = folder / f"step-{step:07d}"
    partial = folder / f".{final.name}.partial"
    _tidy(folder)
    tensors = {
        f"{name}:{slot}": tensor.contiguous()
        for name, slots in moments["state"].items()
        for slot, tensor in slots.items()
    }
    try:
        partial.mkdir(parents=True)
        save_file(weights, partial / "model.safetensors")
        save_file(tensors, partial / "optimizer.safetensors")
        (partial / "state.json").write_text(
            json.dumps({"step": step, "tokens": tokens, "param_groups": moments["param_groups"]})
        )
        for file in partial.iterdir():
            flush(file)
        discard(final)
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"{final}: cannot be saved ({error}). The snapshots before it are whole.",
            "Free some space and run the same command again: it goes on from the newest one.",
        ) from error
    flush(folder)
    _tidy(folder, keep)


@processes.main_only
def _tidy(folder: Path, keep: int | None = None) -> None:
    """Remove what a killed process left half written or half removed, and all but the newest `keep`."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
    for snapshot in _all(folder)[:-keep] if keep else ():
        discard(snapshot)


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))


def restore(snapshot: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, int]:
    """Load a snapshot into a model and its optimiser, in place; returns its step and targets seen.

    Raises:
        TrainingError: the snapshot is of another model.
    """
    state = json.loads((snapshot / "state.json").read_text())
    restore_weights(snapshot, model)
    moments: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(snapshot / "optimizer.safetensors").items():
        name, slot = key.rsplit(":", 1)
        moments.setdefault(name, {})[slot] = tensor
    optimizer_state: dict[str, Any] = {"state": moments, "param_groups": state["param_groups"]}
    set_optimizer_state_dict(model, optimizer, optimizer_state, options=_load())
    return int(state["step"]), int(state["tokens"])


def restore_weights(snapshot: Path, model: nn.Module) -> None:
    """Load the weights of a snapshot alone, in place.

    Raises:
        TrainingError: the snapshot is of another model.
    """
    weights: dict[str, Any] = dict(load_file(snapshot / "model.safetensors"))
    problems = set_model_state_dict(model, weights, options=_load())
    if problems.unexpected_keys:
        raise TrainingError(
            f"{snapshot}: holds {problems.unexpected_keys[0]!r}, which the model lacks.",
            "It belongs to another model: move the folder away to start anew.",
        )


def _load() -> StateDictOptions:
    # Copies are read by every process; of parts the main process sends each its own. To a copy PyTorch would
    # send weights under other names than the file has.
    is_in_parts = processes.count() > 1 and is_sharded()
    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=is_in_parts, strict=False)


def _own_tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """Tied parameters appear under several names: keep the first."""
    seen: dict[tuple[int, int], str] = {}
    own = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.numel())
        if place not in seen or tensor.numel() == 0:
            seen[place] = name
            own[name] = tensor.contiguous()
    return own
