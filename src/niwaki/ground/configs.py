"""Read axis sizes from a `transformers` config, and write a copy of it with other sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from niwaki.errors import FamilyError
from niwaki.ground.axes import AXES, Sizes


def read_sizes(config: PreTrainedConfig, fields: Mapping[str, str]) -> dict[str, int]:
    """Read axis -> size, in the order of `AXES`.

    Args:
        config: the model's config.
        fields: axis -> config field. `group` and `dim` are derived from the number of heads.

    Raises:
        FamilyError: the config lacks a field.
    """
    heads = config.num_attention_heads
    found: dict[str, Any] = {axis: getattr(config, name, None) for axis, name in fields.items()}
    # A config without key-value heads, or without head_dim, means the classic shape.
    found["kv"] = found["kv"] or heads
    found["group"] = heads // found["kv"]
    found["dim"] = getattr(config, "head_dim", None) or config.hidden_size // heads
    sizes = {axis: int(found[axis]) for axis in AXES if found.get(axis) is not None}
    missing = [name for axis, name in fields.items() if axis not in sizes]
    if missing:
        raise FamilyError(
            f"{config.model_type}: the config has no field {missing[0]!r}.",
            "Check that config.json is complete.",
        )
    return sizes


def write_sizes(
    config: PreTrainedConfig, fields: Mapping[str, str], sizes: Sizes, *, head_dim: bool
) -> PreTrainedConfig:
    """Copy a config and give it these sizes.

    Args:
        config: left as it is.
        fields: axis -> config field.
        sizes: axis -> size, for every axis.
        head_dim: write `head_dim` explicitly, so that no reader derives it from hidden / heads.
    """
    written = copy.deepcopy(config)
    # setattr: some fields are aliases (num_experts of num_local_experts) that an edited dict would lose.
    for axis, name in fields.items():
        setattr(written, name, sizes[axis])
    written.num_attention_heads = sizes["kv"] * sizes["group"]
    if head_dim:
        written.head_dim = sizes["dim"]
    return written


def cut_layers(config: PreTrainedConfig, kept: Sequence[int], num_layers: int, named: Sequence[str]) -> None:
    """Cut, in place, everything in a config that speaks of single layers.

    Args:
        config: the config to change.
        kept: original numbers of the layers that stay, ascending.
        num_layers: number of layers before.
        named: the lists with one entry per layer, as the family's table names them.

    Raises:
        FamilyError: another list looks as if it had one entry per layer.
    """
    for name, value in vars(config).items():
        per_layer = isinstance(value, list | tuple) and len(value) == num_layers
        other = name == "architectures" or name.endswith("_token_id")
        if per_layer and not other and name not in named:
            raise FamilyError(
                f"{config.model_type}: config field {name!r} has as many entries as the model has layers "
                f"({num_layers}), but the table does not name it.",
                "Add it to per_layer_fields of the family; see docs/families.md.",
            )
    for name in named:
        value = getattr(config, name, None)
        if value is not None:
            setattr(config, name, [value[layer] for layer in kept])
    # Layers from this number on use a sliding window. Real models write "never" as a number >= num_layers.
    window_start = getattr(config, "max_window_layers", None)
    if window_start is not None and window_start < num_layers:
        config.max_window_layers = sum(layer < window_start for layer in kept)
