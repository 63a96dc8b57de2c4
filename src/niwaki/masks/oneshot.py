"""One-shot masks: by magnitude, by Wanda (arXiv 2306.11695), by SparseGPT (arXiv 2301.00774).

In: a model, in memory or streamed, and calibration rows. Out: tensor after tensor a mask, and where the
weights are updated the new weights. One pass over the rows, layer by layer: a layer hears its inputs, is
pruned, and what it makes then is what the next layer hears. So memory is needed for one layer, the sums of
its inputs and the hidden states of the rows. Each of several processes hears part of the rows, and prunes by
the sums of all.

SparseGPT comes in two kinds that differ much in quality, and every result says which it is: with the update
of the surviving weights, as published, or the mask alone, laid over the weights as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.errors import DataError
from niwaki.ground import processes
from niwaki.ground.calibration import Rows, decoder_arguments, take_rows
from niwaki.ground.family import family_of
from niwaki.ground.progress import progress
from niwaki.ground.streamed import holding
from niwaki.ground.walk import walk
from niwaki.masks.heard import Inputs, Place, hear
from niwaki.masks.patterns import Pattern
from niwaki.masks.sparsegpt import sparsegpt
from niwaki.masks.tensors import maskable

Method = Literal["magnitude", "wanda", "sparsegpt"]


@dataclass(frozen=True)
class Pruned:
    """One tensor: its name, the candidate numbers [G] of its mask, and its weights, where they changed."""

    name: str
    numbers: Tensor
    updated: Tensor | None = None


@torch.no_grad()
def one_shot(
    model: PreTrainedModel,
    rows: Rows | None,
    *,
    pattern: Pattern,
    method: Method,
    update: bool = False,
    dense: Sequence[str] = (),
    num_samples: int = 128,
    batch_rows: int = 4,
    damping: float = 0.01,
    block_columns: int = 128,
) -> Iterator[Pruned]:
    """Masks of all tensors of `maskable`, in its order, layer after layer.

    Collective: each of several processes hears part of the rows, and all go through to the end and get the
    same.

    Args:
        model: left as it is, except that with `update` the weights of a model in memory are changed. The
            updated weights of a streamed one are only in what is yielded.
        rows: `num_samples` of them are read; not needed for magnitude.
        update: SparseGPT's, of the weights that survive.
        dense: tensors and layers to leave alone; see `maskable`.
        damping, block_columns: of SparseGPT; see there.

    Raises:
        RecipeError: a width that the pattern does not divide, or a name in `dense` that fits nothing.
        DataError: too few rows, or activations that are not finite.
    """
    names = list(maskable(model.config, pattern, dense))
    family = family_of(model.config)
    layers: dict[int, list[str]] = {n: [] for n in range(family.axis_sizes(model.config)["layer"])}
    for name in names:
        layers[family.match(name).layer or 0].append(name)
    if method == "magnitude":
        for number, inside in layers.items():
            with holding(model, number):
                for name in inside:
                    yield Pruned(name, pattern.largest(model.get_parameter(name).abs()).cpu())
        return
    if rows is None:
        raise DataError(f"{method} needs calibration rows.", "Give text, or use magnitude.")
    mine = processes.my_part(num_samples, step=batch_rows)
    taken = [take_rows(rows, first, min(batch_rows, mine.stop - first)) for first in mine[::batch_rows]]
    batches = [decoder_arguments(batch, model.device) for batch in taken]
    valid = [batch["mask"] for batch in taken]
    options = {"damping": damping, "block_columns": block_columns}
    prefix = family.layer_prefix
    with progress(method, total=len(layers)) as bar:
        for stop in walk(model, batches):
            weights = {
                name: stop.layer.get_parameter(name.removeprefix(prefix.format(layer=stop.number) + "."))
                for name in layers[stop.number]
            }
            before = {} if update else {name: weight.clone() for name, weight in weights.items()}
            numbers: dict[str, Tensor] = {}
            if weights:
                heard = hear(model, stop, list(weights), valid, whole=method == "sparsegpt")
                numbers = _prune(weights, heard, pattern, method, update, options)
                if not stop.is_last:
                    stop.advance()
            for name, weight in weights.items():
                updated = weight.detach().clone() if update else None
                if not update:
                    weight.copy_(before[name])
                yield Pruned(name, numbers[name].cpu(), updated)
            bar.advance()


def _prune(
    weights: Mapping[str, Tensor],
    heard: Sequence[Inputs],
    pattern: Pattern,
    method: Method,
    update: bool,
    options: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Prune the tensors of a layer in place; candidate numbers [G] by tensor."""
    found: dict[Place, Tensor] = {}
    for inputs in heard:
        parts = [_part(weights, place) for place in inputs.places]
        joined_OI = torch.cat(parts)
        assert inputs.sums is not None
        if method == "sparsegpt":
            numbers, updated_OI = sparsegpt(joined_OI, inputs.sums, pattern, **options)
        else:
            numbers = pattern.largest(joined_OI.float().abs() * inputs.sums.sqrt())
        new_OI = updated_OI if update else joined_OI * pattern.mask(numbers, joined_OI.shape)
        for part, values in zip(parts, new_OI.split([len(part) for part in parts]), strict=True):
            part.copy_(values)
        sizes = [pattern.num_groups(part.shape) for part in parts]
        found |= dict(zip(inputs.places, numbers.split(sizes), strict=True))
    for name, weight in weights.items():
        for place in _places(name, weight):
            if place not in found:  # an expert that no token came to: its magnitudes decide
                part = _part(weights, place)
                found[place] = pattern.largest(part.abs())
                part.mul_(pattern.mask(found[place], part.shape))
    return {
        name: torch.cat([found[place] for place in _places(name, weight)]) for name, weight in weights.items()
    }


def _places(name: str, weight: Tensor) -> list[Place]:
    return [(name, None)] if weight.ndim == 2 else [(name, expert) for expert in range(len(weight))]


def _part(weights: Mapping[str, Tensor], place: Place) -> Tensor:
    """The matrix [O, I] at a place, sharing memory."""
    name, expert = place
    return weights[name].detach() if expert is None else weights[name].detach()[expert]
