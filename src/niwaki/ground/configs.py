"""Read axis sizes from a `transformers` config, check new ones, and write a copy of it with them."""

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


def check_sizes(model_type: str, sizes: Sizes, *, hidden_is_heads: bool, heads_divide_hidden: bool) -> None:
    """Refuse sizes that no config of a family can say.

    Args:
        model_type: as in config.json.
        sizes: axis -> size, for every axis.
        hidden_is_heads, heads_divide_hidden: as of `Family`.

    Raises:
        FamilyError: names the rule and the nearest sizes that satisfy it.
    """
    for axis, size in sizes.items():
        if size < 1:
            raise FamilyError(f"{model_type}: axis {axis!r} has size {size}.", "Every axis needs at least 1.")
    heads, hidden = sizes["kv"] * sizes["group"], sizes["hidden"]
    width = heads * sizes["dim"]
    if hidden_is_heads and hidden != width:
        per_kv = sizes["group"] * sizes["dim"]
        nearest = max(1, round(hidden / per_kv))
        raise FamilyError(
            f"{model_type}: hidden must equal kv * group * dim, because the config has no head_dim; "
            f"got hidden={hidden} and kv * group * dim = {width}.",
            f"Use hidden={width}, or kv={nearest} with hidden={nearest * per_kv}.",
        )
    if heads_divide_hidden and hidden % heads:
        below = hidden // heads * heads
        nearest_sizes = f"{below} or {below + heads}" if below else str(heads)
        raise FamilyError(
            f"{model_type}: hidden must be a multiple of the number of heads, kv * group = {heads}, "
            f"or transformers refuses the config; got hidden={hidden}.",
            f"Use hidden={nearest_sizes}, or a number of heads that divides {hidden}.",
        )


def check_change(config: PreTrainedConfig, old: Sizes, new: Sizes, *, trimmed: Sequence[str]) -> None:
    """Refuse new sizes of axes that stay as they are, and fewer experts than a token is sent to.

    Args:
        config: the model's config.
        old, new: axis -> size, before and after.
        trimmed: the axes that the family can trim, for the message.

    Raises:
        FamilyError: names the axis and what is possible.
    """
    unknown = sorted(set(new) - set(old))
    changed = [axis for axis in ("dim", "vocab") if new[axis] != old[axis]]
    for axis in unknown + changed:
        raise FamilyError(
            f"{config.model_type}: axis {axis!r} cannot be set to {new[axis]}.",
            f"This family can trim: {' '.join(trimmed)}.",
        )
    active = getattr(config, "num_experts_per_tok", None)
    if "expert" in new and active is not None and new["expert"] < active:
        raise FamilyError(
            f"{config.model_type}: {new['expert']} experts are fewer than num_experts_per_tok={active}.",
            f"Keep at least {active} experts.",
        )


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
