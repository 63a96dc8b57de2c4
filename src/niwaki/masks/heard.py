"""What the linear weights of one layer are given: a Gram matrix, or its diagonal, for each different input.

Query, key and value read the same input, and so do gate and up; they share one matrix. Which weights share
is seen when the layer runs, not read off a table. Experts have one for each expert and input.

Shapes: N tokens, I inputs of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.ground import processes
from niwaki.ground.experts import Listener, heard_experts
from niwaki.ground.family import family_of
from niwaki.ground.walk import Stop
from niwaki.masks.tensors import owner

Place = tuple[str, int | None]
"""The name of a tensor, and the expert in it whose matrix is meant."""


_BAND = 128
"""Rows of a Gram matrix that are summed at once, right of the diagonal only: the rest is their mirror."""


@dataclass
class Inputs:
    """Sums over tokens of what some matrices of a layer are given.

    Attributes:
        sums: [I, I], whose entries below the diagonal are filled in by `mirror`, or [I] its diagonal.
    """

    places: list[Place] = field(default_factory=list)
    sums: Tensor | None = None

    def add(self, x: Tensor, *, whole: bool) -> None:
        """Add tokens [..., I]: their X^T X, or only its diagonal."""
        x_NI = x.reshape(-1, x.shape[-1]).float()
        if self.sums is None:
            size = x_NI.shape[-1]
            self.sums = torch.zeros((size, size) if whole else size, device=x.device)
        if whole:
            for first in range(0, len(self.sums), _BAND):
                self.sums[first : first + _BAND, first:].addmm_(
                    x_NI[:, first : first + _BAND].T, x_NI[:, first:]
                )
        else:
            self.sums += x_NI.square().sum(0)

    def mirror(self) -> None:
        """Fill in what the sums of a Gram matrix left out."""
        if self.sums is not None and self.sums.ndim == 2:
            self.sums = self.sums.triu() + self.sums.triu(1).T


def hear(
    model: PreTrainedModel,
    stop: Stop,
    names: Sequence[str],
    valid: Sequence[Tensor],
    *,
    whole: bool,
) -> list[Inputs]:
    """Run one layer on all rows and sum what the tensors in `names` are given.

    Collective: rows are those of this process, and the sums those of all.

    Args:
        names: of tensors in this layer, as the whole model calls them.
        valid: batch after batch [B, S] bool; other tokens do not count.
        whole: Gram matrices for SparseGPT; otherwise diagonals for Wanda.
    """
    prefix = family_of(model.config).layer_prefix.format(layer=stop.number) + "."
    listener = _Listener(stop.layer, {name.removeprefix(prefix): name for name in names}, whole)
    with listener.attached(model):
        for batch, valid_BS in enumerate(valid):
            listener.begin(valid_BS)
            with suppress(_HeardEnoughError):
                stop.run(batch)
    found = list(listener.found.values())
    if processes.count() > 1:
        found = _of_all_processes(found, model.device)
    for inputs in found:
        inputs.mirror()
    return found


def _of_all_processes(found: Sequence[Inputs], device: torch.device) -> list[Inputs]:
    """The sums over the rows of all: an expert that heard none of them here may have heard another's."""
    shapes: dict[tuple[Place, ...], tuple[int, ...]] = {}
    sums = {tuple(inputs.places): inputs.sums for inputs in found if inputs.sums is not None}
    for heard in processes.gather({places: tuple(own.shape) for places, own in sums.items()}):
        shapes |= heard
    added = {
        places: sums[places] if places in sums else torch.zeros(shape, device=device)
        for places, shape in shapes.items()
    }
    processes.add_up(list(added.values()))
    return [Inputs(list(places), total) for places, total in added.items()]


class _HeardEnoughError(Exception):
    """Ends the run of a layer; never leaves this module."""


class _Listener:
    """Hooks on the modules of one layer."""

    def __init__(self, layer: nn.Module, names: Mapping[str, str], whole: bool) -> None:
        """`names`: of each tensor inside the layer -> in the whole model."""
        self.found: dict[Any, Inputs] = {}
        self._whole = whole
        self._valid_BS: Tensor = torch.empty(0)
        self._seen: list[tuple[Tensor, Inputs]] = []
        self._missing = 0
        self._linears: dict[nn.Module, str] = {}
        self._experts: dict[nn.Module, dict[str, str]] = {}
        for inside, name in names.items():
            module, own = owner(layer, inside)
            if isinstance(module, nn.Linear):
                self._linears[module] = name
            else:
                self._experts.setdefault(module, {})[own] = name

    @contextmanager
    def attached(self, model: PreTrainedModel) -> Iterator[None]:
        """Listen while the block runs."""
        with ExitStack() as stack:
            for module, name in self._linears.items():
                handle = module.register_forward_pre_hook(lambda _, args, n=name: self._hear(n, args[0]))
                stack.callback(handle.remove)
            if self._experts:
                listeners = {module: self._expert(module, own) for module, own in self._experts.items()}
                for module in self._experts:
                    stack.callback(module.register_forward_pre_hook(self._hear_experts).remove)
                stack.enter_context(heard_experts(model, listeners))
            yield

    def begin(self, valid_BS: Tensor) -> None:
        """A new batch."""
        self._valid_BS = valid_BS
        self._seen = []
        self._missing = len(self._linears)

    def _hear(self, name: str, x_BSI: Tensor) -> None:
        inputs = next((found for given, found in self._seen if given is x_BSI), None)
        if inputs is None:
            inputs = self.found.setdefault(name, Inputs())
            self._seen.append((x_BSI, inputs))
            all_valid = bool(self._valid_BS.all())
            inputs.add(x_BSI if all_valid else x_BSI[self._valid_BS.to(x_BSI.device)], whole=self._whole)
        if (name, None) not in inputs.places:
            inputs.places.append((name, None))
        self._missing -= 1
        if not self._missing and not self._experts:
            raise _HeardEnoughError

    def _hear_experts(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._experts_input_Nd: Tensor = args[0].flatten(0, -2)

    def _expert(self, module: nn.Module, names: Mapping[str, str]) -> Listener:
        """A listener that knows which of the two matrices of an expert are masked."""

        def listen(expert: int, token_T: Tensor, neurons_TF: Tensor, y_Td: Tensor, weight_T: Tensor) -> None:
            valid_T = self._valid_BS.to(token_T.device).flatten()[token_T]
            given = {"gate_up_proj": self._experts_input_Nd[token_T], "down_proj": neurons_TF}
            for own, name in names.items():
                inputs = self.found.setdefault((name, expert), Inputs([(name, expert)]))
                inputs.add(given[own][valid_T], whole=self._whole)

        return listen
