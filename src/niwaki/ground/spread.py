"""One module, trained by several processes: each has a copy (DDP), or a part of every weight (FSDP2).

The launcher's settings choose: `accelerate launch` with `fsdp_version: 2`, or ACCELERATE_USE_FSDP=true and
FSDP_VERSION=2 in the environment, means FSDP2; DDP otherwise. Both give the gradient averaged over processes.

Under FSDP2 the weights of a layer are whole only while it runs, and those outside the layers (embedding,
head) while the whole module does. The module is sharded in place and put back as it was at the end, because
losses and callers hold on to its parts; accelerate's own wrapper does not put it back, and needs a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from niwaki.errors import TrainingError
from niwaki.ground import processes


def is_sharded() -> bool:
    """Whether the launcher asks for FSDP2.

    Raises:
        TrainingError: it asks for the first FSDP.
    """
    if (planned := processes.supposed()) is not None:
        return planned.is_sharded
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise TrainingError("The launcher's settings ask for the first FSDP.", "Write `fsdp_version: 2`.")
    return True


@contextmanager
def spread(objective: nn.Module) -> Iterator[nn.Module]:
    """What to call inside the block instead of `objective`, whose parameters are to be trained there.

    After the block every process holds all of its weights again, as trained.
    """
    if processes.count() == 1:
        yield objective
    elif is_sharded():
        with _sharded(objective):
            yield objective
    else:
        yield DistributedDataParallel(objective, gradient_as_bucket_view=True)


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
def _sharded(objective: nn.Module) -> Iterator[None]:
    before = [_Plain(module) for module in objective.modules()]
    device = "cuda" if next(objective.parameters()).is_cuda else "cpu"
    mesh = init_device_mesh(device, (processes.count(),))
    for layer in _layers(objective):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    yield
    whole: dict[Tensor, nn.Parameter] = {}
    for name, parameter in list(objective.named_parameters()):
        assert isinstance(parameter, DTensor), name
        full = parameter.full_tensor().detach()
        whole[parameter] = nn.Parameter(full, requires_grad=parameter.requires_grad)
    for plain in before:
        plain.put_back(whole)


def _layers(objective: nn.Module) -> list[nn.Module]:
    """The layers of the models inside, which `transformers` names as what one device holds whole."""
    names = {
        name for module in objective.modules() for name in getattr(module, "_no_split_modules", None) or ()
    }
    return [module for module in objective.modules() if type(module).__name__ in names]


class _Plain:
    """What a module is before it is sharded."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind, self._names = module, type(module), set(vars(module))
        tables = {name: value for name, value in vars(module).items() if "hook" in name}
        self._hooks = {name: table.copy() for name, table in tables.items() if isinstance(table, dict)}

    def put_back(self, whole: Mapping[Tensor, nn.Parameter]) -> None:
        """Make it that again, with the weights `whole` (sharded one -> whole one)."""
        self._module.__class__ = self._kind
        for name in set(vars(self._module)) - self._names:
            delattr(self._module, name)
        vars(self._module).update(self._hooks)
        for name, parameter in self._module._parameters.items():
            if parameter is not None:
                self._module._parameters[name] = whole[parameter]
