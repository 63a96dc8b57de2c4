"""Run some of a model's layers only: the model in memory, its own forward, nothing copied.

In: a `transformers` causal language model whose family has a table. While a block runs, the model is one of
fewer layers: its list of layers, what its config says of single layers and the layers' places in the
key-value cache are those of the trimmed model, and so are logits, losses, `generate()` and lm-eval tasks.

Shapes: B rows, S positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.errors import FamilyError
from niwaki.ground.family import family_of


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers of a model.

    Raises:
        FamilyError: no table for its family.
    """
    layers = model.get_submodule(_list_name(model))
    assert isinstance(layers, nn.ModuleList)
    return layers


@contextmanager
def only_layers(model: PreTrainedModel, kept: Sequence[int]) -> Iterator[None]:
    """While the block runs, `model` consists of the layers `kept` (ascending, numbered from 0).

    The config object stays the same one and changes its content, because every module of the model holds it.
    Afterwards, or after an error, everything is as it was.

    Raises:
        FamilyError: `kept` is empty, not ascending or out of range, or the family has no table.
    """
    family, config, layers = family_of(model.config), model.config, layer_list(model)
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(layers):
        raise FamilyError(
            f"Layers {list(kept)} cannot be kept of a model with {len(layers)} layers.",
            f"Name one or more different layers from 0 to {len(layers) - 1}, ascending.",
        )
    resized = family.resize(config, {"layer": len(kept)}, {"layer": torch.tensor(list(kept))})
    parent_name, _, name = _list_name(model).rpartition(".")
    parent = model.get_submodule(parent_name)
    fields = dict(vars(config))
    places: list[tuple[Any, int, int]] = [
        (module, number, place)
        for place, number in enumerate(kept)
        for module in layers[number].modules()
        if hasattr(module, "layer_idx")
    ]
    try:
        _replace_fields(config, vars(resized))
        setattr(parent, name, nn.ModuleList(layers[number] for number in kept))
        for module, _, place in places:
            module.layer_idx = place
        yield
    finally:
        for module, number, _ in places:
            module.layer_idx = number
        setattr(parent, name, layers)
        _replace_fields(config, fields)


def without_layers(model: PreTrainedModel, dropped: Sequence[int]) -> AbstractContextManager[None]:
    """`only_layers` with all layers but `dropped`."""
    return only_layers(model, [n for n in range(len(layer_list(model))) if n not in set(dropped)])


@contextmanager
def starting_from(layer: nn.Module, hidden_BSD: Tensor) -> Iterator[None]:
    """While the block runs, `layer` gets `hidden_BSD`, whatever the modules before it made."""

    def replace(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (hidden_BSD, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden_BSD}

    handle = layer.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states [B, S, D] among the arguments of a decoder layer."""
    hidden_BSD: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden_BSD


def layer_output(output: Any) -> Tensor:
    """The hidden states [B, S, D] in what a decoder layer returns."""
    hidden_BSD: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden_BSD


def _list_name(model: PreTrainedModel) -> str:
    return family_of(model.config).layer_prefix.removesuffix(".{layer}")


def _replace_fields(config: Any, fields: dict[str, Any]) -> None:
    vars(config).clear()
    vars(config).update(fields)
