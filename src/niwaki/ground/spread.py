"""One module, trained by several processes: each has a copy (DDP), or a part of every weight (FSDP2).

The launcher's settings choose (`processes.are_sharded`). Both give the gradient averaged over processes.

Under FSDP2 the weights of a layer are whole only while it runs, and those outside the layers (embedding,
head) while the whole module does. The module is sharded in place and put back as it was at the end, whole or
in parts (`parts`), because losses and callers hold on to its parts; accelerate's own wrapper does not put it
back, and needs a GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from niwaki.ground import processes
from niwaki.ground.parts import is_in_parts, mesh_of


@contextmanager
def spread(objective: nn.Module) -> Iterator[nn.Module]:
    """What to call inside the block instead of `objective`, whose parameters are to be trained there.

    After the block every process holds all of its weights again, as trained, but for those that lay in parts.
    """
    if processes.count() == 1:
        yield objective
    elif processes.are_sharded():
        with _sharded(objective):
            yield objective
    else:
        yield DistributedDataParallel(objective, gradient_as_bucket_view=True)


@contextmanager
def running(model: PreTrainedModel) -> Iterator[None]:
    """Let a model run forward in the block, also one in parts: all processes run it equally often then.

    A block inside may ask for the same again.
    """
    if is_in_parts(model) and not any(isinstance(part, FSDPModule) for part in model.modules()):
        backbone = model.base_model
        ends = {part for part in backbone.parameters() if not isinstance(part, DTensor)}
        with _sharded(backbone, but=ends):
            # The first pass makes the buffers of all later ones; made in inference mode they serve no others.
            with torch.inference_mode(False), torch.no_grad():
                backbone(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
            yield
    else:
        yield


@contextmanager
def recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Where `wanted`, the models in `model` recompute their layers in the backward passes of the block."""
    inside: list[PreTrainedModel] = []
    for module in model.modules():
        is_part = any(module in set(whole.modules()) for whole in inside)
        if wanted and isinstance(module, PreTrainedModel) and not is_part:
            inside.append(module)
    for whole in inside:
        _switch(whole, "enable", {"use_reentrant": False})
    try:
        yield
    finally:
        for whole in inside:
            _switch(whole, "disable")


def _switch(model: PreTrainedModel, how: str, *arguments: Any) -> None:
    newer = getattr(model, f"activation_checkpointing_{how}", None)  # its name in later versions
    (newer or getattr(model, f"gradient_checkpointing_{how}"))(*arguments)


def unsynchronised(objective: nn.Module) -> AbstractContextManager[Any]:
    """A context for a backward pass that another one follows before the step.

    FSDP2 adds up its parts of the gradient each time: the whole one would not fit.
    """
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else nullcontext()


def clip_norm_(parameters: Iterable[Tensor], most: float) -> float:
    """Scale gradients to a norm of at most `most`, over all processes; the norm before that."""
    norm = nn.utils.clip_grad_norm_(parameters, most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


@contextmanager
def _sharded(module: nn.Module, *, but: Collection[nn.Parameter] = ()) -> Iterator[None]:
    """Shard a module in place for the block; the parameters `but` stay as they are."""
    before = [_Before(part) for part in module.modules()]
    mesh = mesh_of("cuda" if next(module.parameters()).is_cuda else "cpu")
    for layer in _layers(module):
        in_parts = {name: part for name, part in layer.named_parameters() if isinstance(part, DTensor)}
        # PyTorch shards what is whole, or has no values yet, and then takes parts for values.
        without = {
            n: torch.empty(part.shape, dtype=part.dtype, device="meta") for n, part in in_parts.items()
        }
        layer.load_state_dict(without, strict=False, assign=True)
        fully_shard(layer, mesh=mesh)
        layer.load_state_dict(in_parts, strict=False, assign=True)
    fully_shard(module, mesh=mesh, ignored_params=set(but))
    yield
    made_whole: dict[Tensor, nn.Parameter] = {}
    for each in before:
        each.put_back(made_whole)


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of the models inside, which `transformers` names as what one device holds whole."""
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return [part for part in module.modules() if type(part).__name__ in names]


class _Before:
    """What a module is before it is sharded."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind, self._names = module, type(module), set(vars(module))
        tables = {name: value for name, value in vars(module).items() if "hook" in name}
        self._hooks = {name: table.copy() for name, table in tables.items() if isinstance(table, dict)}
        parameters = module._parameters.items()
        self._in_parts = {name for name, parameter in parameters if isinstance(parameter, DTensor)}

    def put_back(self, made_whole: dict[Tensor, nn.Parameter]) -> None:
        """Make it that again, with the weights as they are now: in parts if they were, else whole.

        `made_whole` has those that other modules share, and gets more. Collective.
        """
        module = self._module
        module.__class__ = self._kind
        for name in set(vars(module)) - self._names:
            delattr(module, name)
        vars(module).update(self._hooks)
        _module_state_mapping.pop(module, None)  # else PyTorch would not shard it again
        for name, part in module._parameters.items():
            if not isinstance(part, DTensor) or name in self._in_parts:
                continue
            if part not in made_whole:
                full = part.full_tensor().detach()
                made_whole[part] = nn.Parameter(full, requires_grad=part.requires_grad)
            module._parameters[name] = made_whole[part]
