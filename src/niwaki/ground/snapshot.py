"""Training checkpoints that resume exactly: trained weights and optimiser in safetensors, the step in JSON.

A snapshot is written beside its final name, flushed to disk and renamed, so a killed process leaves either
the whole snapshot or none; older ones go only after that. There is no random state to keep, because data
order and noise are functions of the step. Under FSDP2 every process writes what it holds, and a snapshot can
be resumed on another number of processes, sharded or not (`part_files`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from niwaki.errors import TrainingError
from niwaki.ground import processes
from niwaki.ground.folder import discard, flush
from niwaki.ground.part_files import names_in, read_parts, write_parts

_WEIGHTS, _MOMENTS = "model", "optimizer"


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
        RunError: the processes do not see the same folder.
    """
    step, tokens = progress
    final = folder / f"step-{step:07d}"
    partial = _partial(final)
    weights = _own_tensors(dict(get_model_state_dict(model)))
    # What is frozen is where it was loaded from; a tied weight has several names.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            weights.pop(name.removeprefix("module."), None)
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    state = {"step": step, "tokens": tokens, "param_groups": moments["param_groups"]}
    failure: OSError | SafetensorError | None = None
    _prepare(final)
    processes.check_shared(partial)
    try:
        write_parts(partial, _WEIGHTS, weights)
        write_parts(partial, _MOMENTS, _flat(moments["state"]))
    except (OSError, SafetensorError) as error:
        failure = error
    refusals = [said for said in processes.gather(None if failure is None else str(failure)) if said]
    _finish(final, state, refusals, keep=keep)


@processes.main_only
def _prepare(final: Path) -> None:
    _tidy(final.parent)
    with _saving(final):
        _partial(final).mkdir(parents=True)


@processes.main_only
def _finish(final: Path, state: dict[str, Any], refusals: list[str], *, keep: int) -> None:
    partial = _partial(final)
    with _saving(final):
        if refusals:
            raise OSError(refusals[0])
        (partial / "state.json").write_text(json.dumps(state))
        flush(partial / "state.json")
        discard(final)
        partial.rename(final)
    flush(final.parent)
    _tidy(final.parent, keep)


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


@contextmanager
def _saving(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        shutil.rmtree(_partial(final), ignore_errors=True)
        raise TrainingError(
            f"{final}: cannot be saved ({error}). The snapshots before it are whole.",
            "Free some space and run the same command again: it goes on from the newest one.",
        ) from error


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
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    read_parts(snapshot, _MOMENTS, _flat(moments["state"]))
    set_optimizer_state_dict(model, optimizer, moments | {"param_groups": state["param_groups"]})
    return int(state["step"]), int(state["tokens"])


def restore_weights(snapshot: Path, model: nn.Module) -> None:
    """Load the weights of a snapshot alone, in place.

    Raises:
        TrainingError: the snapshot is of another model.
    """
    weights: dict[str, Any] = dict(get_model_state_dict(model))
    if unknown := names_in(snapshot, _WEIGHTS) - weights.keys():
        raise TrainingError(
            f"{snapshot}: holds {min(unknown)!r}, which the model lacks.",
            "It belongs to another model: move the folder away to start anew.",
        )
    read_parts(snapshot, _WEIGHTS, weights)


def _flat(moments: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}:{slot}": tensor for name, slots in moments.items() for slot, tensor in slots.items()}


def _own_tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """Tied parameters appear under several names: keep the first."""
    seen: dict[tuple[int, int], str] = {}
    own = {}
    for name, tensor in state.items():
        held = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        place = (held.data_ptr(), held.numel())
        if place not in seen or held.numel() == 0:
            seen[place] = name
            own[name] = tensor
    return own
