"""Which tensors of a model a mask covers: the linear weights of the layers, read off the axis table.

Embedding, norms, routers and head are never masked (maskllm 2.1). Fused experts are: they are one tensor
[expert, out, in] in memory, and groups run along `in` there as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedConfig

from niwaki.errors import RecipeError
from niwaki.ground.family import family_of
from niwaki.ground.patterns import expand
from niwaki.masks.patterns import Pattern

Shapes = dict[str, tuple[int, ...]]


def maskable(config: PreTrainedConfig, pattern: Pattern, dense: Sequence[str] = ()) -> Shapes:
    """Name -> shape of every tensor to be masked, in the order of the layers.

    Args:
        config: of the model; nothing is loaded.
        dense: names of tensors or of layers to leave alone, with `*` for any text: "model.layers.7.*",
            "*down_proj*", or "layer 7" for all of layer 7.

    Raises:
        RecipeError: a width that the pattern's groups do not divide, or a name in `dense` that fits nothing.
        FamilyError: the family has no table.
    """
    family = family_of(config)
    sizes = family.axis_sizes(config)
    shapes = family.shapes(sizes)
    names = [name for pattern_ in family.linears for name in expand(pattern_, sizes)]
    names.sort(key=lambda name: family.match(name).layer or 0)
    left = dict.fromkeys(dense, False)
    found: Shapes = {}
    for name in names:
        asked = [text for text in dense if _fits(text, name, family.match(name).layer)]
        left |= dict.fromkeys(asked, True)
        if not asked:
            found[name] = shapes[name]
    for text, used in left.items():
        if not used:
            raise RecipeError(
                f"dense: {text!r} fits no tensor that would be masked.",
                f"Write names such as {names[0]!r} or 'layer 0', with * for any text.",
            )
    if not found:
        raise RecipeError("dense: every tensor is left dense, so there is nothing to mask.", "Name fewer.")
    if bad := {name: shape for name, shape in found.items() if not pattern.divides(shape)}:
        name, shape = next(iter(bad.items()))
        lines = sorted({family.match(name).pattern.format(layer="*") for name in bad})
        raise RecipeError(
            f"{name}: its shape {list(shape)} does not divide into groups of {pattern.group} along the input "
            f"dimension, which pattern {pattern} needs; so of {len(bad)} of {len(found)} tensors.",
            f"Leave them dense (dense: {lines}), or use a pattern whose M divides {shape[-1]}.",
        )
    return found


def _fits(text: str, name: str, layer: int | None) -> bool:
    return text == f"layer {layer}" or fnmatchcase(name, text)


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor, and the tensor's name there."""
    module, _, own = name.rpartition(".")
    return model.get_submodule(module), own


def check_covers(masks: Mapping[str, object], shapes: Shapes, what: str) -> None:
    """Refuse masks of other tensors than those of `shapes`.

    Raises:
        RecipeError: names the first difference.
    """
    for name in sorted(set(masks) ^ set(shapes)):
        side = "is masked there and not here" if name in masks else "is to be masked and has no mask there"
        raise RecipeError(f"{what}: {name} {side}.", "Use a mask of the same model and the same `dense`.")
