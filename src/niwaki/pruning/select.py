"""From scores to the units that survive: the best of every axis, in their original order.

Minitron (arXiv 2407.14679, section 2.2): neurons are ranked inside each layer, query heads inside each
key-value head (so all keep the same number), hidden channels once for the whole model. Which layers to drop
follows its sequel (arXiv 2408.11796): one contiguous block, the last layer kept; see `drop`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from niwaki.errors import EvaluationError, FamilyError, RecipeError
from niwaki.pruning.importance import Importance, unit_shape

_FEW_LAYERS = 2


def select(
    importance: Importance,
    full_sizes: Mapping[str, int],
    sizes: Mapping[str, int],
    *,
    drop_layers: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Indices to keep so that a model of `full_sizes` gets these `sizes`; an axis kept whole is left out.

    `importance` comes from any measure: `Scores.importances`, those of `measures.py`, or your own mapping
    axis -> Tensor in the shapes of `importance.py`. Units of ffn and kv are ranked inside each layer, group
    inside each key-value head, effn inside each expert, hidden once for the whole model.

    Indices are int64, ascending and numbered as in the original model: layer, hidden [n]; ffn, kv, expert
    [L, n]; group [L, KV, n]; effn [L, E, n]. Equal importances keep the lower index. `drop_layers` names the
    layers to drop instead of leaving that to the importance of layers (see `drop`).

    Raises RecipeError for a size the model does not have, FamilyError for a smaller axis without importance
    or with one of another shape, EvaluationError for importance that is not finite.
    """
    keep: dict[str, Tensor] = {}
    for axis, size in sizes.items():
        full = full_sizes.get(axis)
        if full is None or not 1 <= size <= full:
            raise RecipeError(
                f"Size {axis}={size} cannot be cut from a model with {axis}={full}.",
                "Give sizes between 1 and the model's own.",
            )
        if size < full and axis != "layer":
            keep[axis] = _largest(_importance_of(axis, importance, full_sizes), size)
    num_layers = full_sizes["layer"]
    num_dropped = num_layers - sizes.get("layer", num_layers)
    if drop_layers is None and num_dropped:
        drop_layers = drop(_importance_of("layer", importance, full_sizes), num_dropped)
    dropped = set(drop_layers or ())
    if len(dropped) != num_dropped or not dropped <= set(range(num_layers)):
        raise RecipeError(
            f"drop_layers names layers {sorted(dropped)}, but {num_dropped} of {num_layers} layers go.",
            f"Name {num_dropped} different layers from 0 to {num_layers - 1}.",
        )
    if dropped:
        keep["layer"] = torch.tensor([layer for layer in range(num_layers) if layer not in dropped])
    return keep


def drop(influence: Tensor, num_dropped: int) -> list[int]:
    """Layers to drop, given the importance [L] of each, such as its block influence.

    One or two layers: those of least influence. More: the contiguous block of least summed influence,
    because dropping 16 of 32 scattered layers left Winogrande at chance (0.5) where one block left 0.595
    (arXiv 2408.11796, depth pruning). There the last layer stays, and first and last matter most: here the
    last is never dropped, and the first only when nothing else is left. Block influence is the cheap
    stand-in for the loss with the block removed, which that paper ranks by.
    """
    num_layers = len(influence)
    if not 0 < num_dropped < num_layers:
        raise RecipeError(
            f"{num_dropped} of {num_layers} layers cannot be dropped.", "Keep at least one layer."
        )
    first = 1 if num_dropped <= num_layers - 2 else 0
    inner = influence[first:-1]
    if num_dropped <= _FEW_LAYERS:
        return (_largest(-inner, num_dropped) + first).tolist()
    start = first + int(inner.unfold(0, num_dropped, 1).sum(-1).argmin())
    return list(range(start, start + num_dropped))


def _importance_of(axis: str, importance: Importance, full_sizes: Mapping[str, int]) -> Tensor:
    if axis not in importance:
        raise FamilyError(
            f"Axis {axis!r} has no importance; there is one for {', '.join(importance) or 'none'}.",
            f"Leave {axis!r} at its full size, or score the model again with this axis.",
        )
    values, expected = importance[axis], unit_shape(axis, full_sizes)
    if tuple(values.shape) != expected:
        raise FamilyError(
            f"The importance of axis {axis!r} has shape {list(values.shape)}, expected {list(expected)}.",
            "Score the model that is to be cut.",
        )
    if not values.isfinite().all():
        raise EvaluationError(
            f"The importance of axis {axis!r} holds NaN or infinity.", "Look at the measure that made it."
        )
    return values


def _largest(importance: Tensor, num_kept: int) -> Tensor:
    """Indices of the largest along the last axis, ascending; of equals, the first."""
    order = importance.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :num_kept].sort(dim=-1).values
