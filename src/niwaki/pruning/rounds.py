"""Iterative scoring: cut a part of the way, score what is left, cut further (arXiv 2407.14679, section 2.2).

Minitron finds that it does not help (its Table 14). Every round cuts a model in memory; the indices that all
rounds keep are put together into indices of the original, so that one trim of the original makes the student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.errors import FamilyError, RecipeError
from niwaki.ground.axes import PARENTS
from niwaki.ground.family import Family, family_of
from niwaki.pruning.importance import Importance, unit_shape
from niwaki.pruning.memory_cut import cut_model
from niwaki.pruning.select import select

Keep = dict[str, Tensor]


def round_sizes(
    family: Family, full_sizes: Mapping[str, int], sizes: Mapping[str, int], *, num_rounds: int
) -> list[dict[str, int]]:
    """The sizes after each of `num_rounds` rounds, the last being `sizes`.

    Round i of T leaves full - (i + 1) (full - size) / T units of an axis, rounded up. Layers all go in the
    first round: dropped a few at a time they would be scattered ones, where one block does better
    (arXiv 2408.11796). Hidden is moved to the nearest size that the family can express beside the heads.

    Raises RecipeError for less than one round, FamilyError where a round has no size that can be expressed.
    """
    if num_rounds < 1:
        raise RecipeError(f"rounds is {num_rounds}.", "Score in one round or more.")
    rounds: list[dict[str, int]] = []
    before = dict(full_sizes)
    target = before | dict(sizes)
    family.check(target)
    for done in range(1, num_rounds + 1):
        now = {axis: full - done * (full - target[axis]) // num_rounds for axis, full in full_sizes.items()}
        now["layer"] = target["layer"]
        wanted, nearby = now["hidden"], range(target["hidden"], before["hidden"] + 1)
        for hidden in sorted(nearby, key=lambda size: abs(size - wanted)):
            if _expressible(family, now | {"hidden": hidden}):
                now["hidden"] = hidden
                break
        else:
            raise FamilyError(
                f"{family.model_type}: round {done} of {num_rounds} finds no hidden size from "
                f"{target['hidden']} to {before['hidden']} that goes with {now['kv'] * now['group']} heads.",
                "Score in fewer rounds, or in one.",
            )
        rounds.append(now)
        before = now
    return rounds


def select_in_rounds(
    model: PreTrainedModel,
    measure: Callable[[PreTrainedModel], Importance],
    sizes: Mapping[str, int],
    *,
    num_rounds: int,
    first: Importance | None = None,
    drop_layers: Sequence[int] | None = None,
) -> Keep:
    """Select as `select` does, scoring what the rounds before have left; the result is about `model`.

    Args:
        model: the original; it is left as it is.
        measure: a model -> its importance, on the same rows each time.
        sizes: axis -> size at the end; absent axes stay whole.
        num_rounds: one is `select(measure(model), ...)`.
        first: the importance of `model`, where it is known already.
        drop_layers: layers of `model` to drop, all in the first round.
    """
    family = family_of(model.config)
    full_sizes = family.axis_sizes(model.config)
    keep: Keep = {}
    now, now_sizes = model, full_sizes
    for number, target in enumerate(round_sizes(family, full_sizes, sizes, num_rounds=num_rounds)):
        importance = first if number == 0 and first is not None else measure(now)
        more = select(importance, now_sizes, target, drop_layers=drop_layers if number == 0 else None)
        keep = compose(keep, more, full_sizes)
        if number < num_rounds - 1:
            now, now_sizes = cut_model(now, more), target
    return keep


def compose(outer: Mapping[str, Tensor], inner: Mapping[str, Tensor], full_sizes: Mapping[str, int]) -> Keep:
    """Two cuts as one: `inner` is numbered as in the model that `outer` leaves of one of `full_sizes`.

    In layers (and key-value heads and experts) that do not survive, indices mean nothing; they are the first.
    """
    composed = dict(outer)
    for axis, indices in inner.items():
        length, lead = indices.shape[-1], unit_shape(axis, full_sizes)[:-1]
        whole = outer.get(axis, torch.arange(full_sizes[axis])).expand(*lead, -1)
        if not lead:
            composed[axis] = whole[indices]
            continue
        result = whole[..., :length].clone()
        for row, layer in enumerate(_survivors(outer, "layer", full_sizes)):
            if axis not in PARENTS:
                result[layer] = whole[layer][indices[row]]
                continue
            for position, parent in enumerate(_survivors(outer, PARENTS[axis], full_sizes, layer)):
                result[layer, parent] = whole[layer, parent][indices[row, position]]
        composed[axis] = result
    return composed


def _survivors(
    keep: Mapping[str, Tensor], axis: str, full_sizes: Mapping[str, int], layer: int | None = None
) -> list[int]:
    kept = keep.get(axis)
    if kept is None:
        return list(range(full_sizes[axis]))
    return (kept if layer is None else kept[layer]).tolist()


def _expressible(family: Family, sizes: Mapping[str, int]) -> bool:
    try:
        family.check(sizes)
    except FamilyError:
        return False
    return True
