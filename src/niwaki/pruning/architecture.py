"""Which smaller shapes of a model fit a budget.

Minitron (arXiv 2407.14679, section 2.3 and Tables 12 and 19) enumerates a small grid of customary sizes and
keeps the combinations inside a parameter interval. Shapes are plain dicts, axis -> size, and are counted from
the family's axis table, so no model is built.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product, zip_longest
from typing import Literal

from niwaki.errors import BudgetError, FamilyError, RecipeError
from niwaki.ground.family import Family
from niwaki.pruning.limits import NUM_NEAREST, Limit, Sizes, described, nearest_to_limits, within

Unit = Literal["parameters", "non-embedding parameters"]


@dataclass(frozen=True)
class Budget:
    """An inclusive interval of model size, and the size to come closest to.

    "parameters" counts all of them, tied weights once; "non-embedding parameters" only those in the layers.
    """

    low: int
    high: int
    target: int
    unit: Unit = "parameters"

    @classmethod
    def around(cls, target: int, *, tolerance: float = 0.05, unit: Unit = "parameters") -> Budget:
        """`target` give or take a fraction of it; a fraction of a teacher is `target=round(f * size)`."""
        return cls(round(target * (1 - tolerance)), round(target * (1 + tolerance)), target, unit)

    @classmethod
    def between(cls, low: int, high: int, *, unit: Unit = "parameters") -> Budget:
        """An explicit interval; raises BudgetError when it is empty."""
        if not 0 < low <= high:
            raise BudgetError(
                f"Budget {low:,} to {high:,} is empty.", "Give a positive low bound, at most the high one."
            )
        return cls(low, high, (low + high) // 2, unit)

    @classmethod
    def of_bytes(cls, num_bytes: int, *, parameter_bytes: int, tolerance: float = 0.05) -> Budget:
        """Weights of `num_bytes` when saved with `parameter_bytes` each (2 for bfloat16)."""
        return cls.around(num_bytes // parameter_bytes, tolerance=tolerance)

    def measure(self, family: Family, sizes: Mapping[str, int], *, tied: bool) -> int:
        """Size of a shape in this budget's unit."""
        total = family.count(sizes, tied=tied)
        if self.unit == "parameters":
            return total
        return total - family.count({**sizes, "layer": 0}, tied=tied)


def alignment(size: int) -> int:
    """The multiple that cuts of an axis of this size keep to for fast kernels: 128 from 2048 on, ..., 8."""
    return min(128, 1 << max(size // 16, 8).bit_length() - 1)


def candidates(
    family: Family,
    sizes: Mapping[str, int],
    *,
    budget: Budget,
    tied: bool,
    grid: Mapping[str, Sequence[float]] | None = None,
    axes: Sequence[str] | None = None,
    limit: int = 12,
    limits: Sequence[Limit] = (),
    fewest_experts: int = 1,
) -> list[Sizes]:
    """Shapes of a model of these `sizes` that fall inside `budget`.

    With `grid` (axis -> values, also "heads" for kv * group and "ffn_ratio" for ffn / hidden), every
    combination inside the budget that the family can express, in the grid's order.

    Without, up to `limit` shapes that cut only `axes` (`usual_axes` by default): depths of 1, 7/8, 3/4, 5/8
    and 1/2 of the layers, the same parts of the experts but no fewer than `fewest_experts`, and for each of
    these every aligned hidden size with the aligned ffn (effn in experts) that lands nearest the target.
    Depths take turns, each giving the shape whose width axes are cut most evenly first, so that the list
    spreads over depth against width.

    A shape beyond one of `limits` is left out, and makes room for the next; they are asked in order, one
    shape at a time, so the costly ones (a measured latency) belong last.

    Raises BudgetError naming the nearest legal sizes when nothing fits, RecipeError for a grid value that the
    model cannot take or axes that the family lacks or can only cut together, FamilyError for a grid of which
    the family can express no point.
    """
    if grid is not None:
        points = list(_grid_shapes(sizes, grid, family))
        shapes = [point for point in points if _expressible(family, point)]
        if points and not shapes:
            family.check(points[0])
    else:
        axes = usual_axes(family) if axes is None else axes
        _check_axes(family, axes)
        even = _even_shapes(family, sizes, axes, budget, tied, fewest_experts)
        shapes = [shape for shape in even if shape != dict(sizes)]
    measured = [(budget.measure(family, shape, tied=tied), shape) for shape in shapes]
    fitting = [shape for size, shape in measured if budget.low <= size <= budget.high]
    if not fitting:
        raise _nothing_fits(family, budget, measured)
    turns = iter(fitting) if grid is not None else _take_turns(fitting, sizes)
    chosen = list(islice(within(turns, limits), None if grid is not None else limit))
    if not chosen:
        raise nearest_to_limits(family.model_type, fitting, limits)
    return chosen


def usual_axes(family: Family) -> tuple[str, ...]:
    """The axes that are cut unless others are named: depth, hidden, and the neurons of MLP or experts.

    Heads stay whole, because every published Minitron keeps them, unless the family ties hidden to them.
    """
    heads = ("kv", "group") if family.hidden_is_heads else ()
    return tuple(axis for axis in family.axes if axis in ("layer", "hidden", "ffn", "effn", *heads))


def _check_axes(family: Family, axes: Sequence[str]) -> None:
    unknown = [axis for axis in axes if axis not in family.axes]
    if unknown:
        raise RecipeError(
            f"Axes to cut: {family.model_type} has no {', '.join(unknown)}.",
            f"Choose from {', '.join(family.axes)}.",
        )
    heads = [axis for axis in ("kv", "group") if axis in family.axes]
    if family.hidden_is_heads and ("hidden" in axes) != any(axis in axes for axis in heads):
        named = ", ".join(axis for axis in axes if axis in ("hidden", *heads))
        other = " or ".join(heads) if "hidden" in axes else "hidden"
        raise RecipeError(
            f"Axes to cut name {named} without {other}: {family.model_type} has hidden = kv * group * dim, "
            "so they can only be cut together.",
            f"Add {other}, or leave {named} out.",
        )


def _grid_shapes(
    sizes: Mapping[str, int], grid: Mapping[str, Sequence[float]], family: Family
) -> Iterator[Sizes]:
    for values in product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        heads, ratio = point.pop("heads", None), point.pop("ffn_ratio", None)
        _refuse_outside(family, sizes, point)
        shape = {**sizes, **{axis: int(value) for axis, value in point.items()}}
        if heads is not None:
            shape["group"] = _exact(heads / shape["kv"], f"heads={heads} with kv={shape['kv']}")
        if ratio is not None:
            shape["ffn"] = _exact(ratio * shape["hidden"], f"ffn_ratio={ratio} with hidden={shape['hidden']}")
        _refuse_outside(family, sizes, shape)
        yield shape


def _refuse_outside(family: Family, sizes: Mapping[str, int], point: Mapping[str, float]) -> None:
    for axis, value in point.items():
        if axis not in sizes:
            raise RecipeError(
                f"Axis {axis!r} of the grid is unknown to {family.model_type}.",
                f"Choose from {', '.join(sizes)}, heads, ffn_ratio.",
            )
        if not 1 <= value <= sizes[axis]:
            raise RecipeError(
                f"{axis}={value:g} is not between 1 and the model's {sizes[axis]}.",
                "Trimming only removes; give a smaller value.",
            )


def _exact(value: float, what: str) -> int:
    if value != int(value):
        raise RecipeError(f"{what} gives {value:g}, not a whole number.", "Give values that divide evenly.")
    return int(value)


def _even_shapes(
    family: Family,
    sizes: Mapping[str, int],
    axes: Sequence[str],
    budget: Budget,
    tied: bool,
    fewest_experts: int,
) -> Iterator[Sizes]:
    """For every depth, experts, hidden size and head count, the ffn that lands nearest the target."""
    inner = next((axis for axis in ("ffn", "effn") if axis in axes), None)
    layers = _eighths(sizes["layer"]) if "layer" in axes else [sizes["layer"]]
    hiddens = _aligned(sizes["hidden"]) if "hidden" in axes else [sizes["hidden"]]
    experts: list[Sizes] = [{}]
    if "expert" in axes:
        experts = [{"expert": n} for n in _eighths(sizes["expert"]) if n >= fewest_experts]
    for layer, expert, hidden in product(layers, experts, hiddens):
        outer = {**sizes, "layer": layer, "hidden": hidden, **expert}
        for heads in _heads(family, outer, axes):
            shape = outer | heads
            if inner is None:
                yield shape
                continue
            widths = [{**shape, inner: width} for width in _aligned(sizes[inner])]
            yield _nearest(widths, budget.target, lambda s: budget.measure(family, s, tied=tied))


def _eighths(size: int) -> list[int]:
    """The size and 7, 6, 5 and 4 eighths of it, rounded up."""
    return list(dict.fromkeys(-(-size * eighths // 8) for eighths in (8, 7, 6, 5, 4)))


def _heads(family: Family, sizes: Sizes, axes: Sequence[str]) -> list[Sizes]:
    """The kv and group sizes to try; where the family ties hidden to them, the most that agree with it."""
    kvs = range(sizes["kv"], 0, -1) if "kv" in axes else [sizes["kv"]]
    groups = range(sizes["group"], 0, -1) if "group" in axes else [sizes["group"]]
    options = ({"kv": kv, "group": group} for kv, group in product(kvs, groups))
    fitting = (option for option in options if _expressible(family, {**sizes, **option}))
    return list(islice(fitting, 1)) if family.hidden_is_heads else list(fitting)


def _aligned(size: int) -> list[int]:
    step = alignment(size)
    return [*range(step, size, step), size]


def _nearest(shapes: Sequence[Sizes], target: int, measure: Callable[[Sizes], int]) -> Sizes:
    """The shape of the size nearest `target`, among shapes that grow."""
    above = bisect_left(shapes, target, key=measure)
    return min(shapes[max(above - 1, 0) : above + 1], key=lambda shape: abs(measure(shape) - target))


def _expressible(family: Family, shape: Mapping[str, int]) -> bool:
    try:
        family.check(shape)
    except FamilyError:
        return False
    return True


def _take_turns(shapes: Sequence[Sizes], sizes: Mapping[str, int]) -> Iterator[Sizes]:
    depths = sorted({shape["layer"] for shape in shapes}, reverse=True)
    ranked = [
        sorted((s for s in shapes if s["layer"] == depth), key=lambda s: _unevenness(s, sizes))
        for depth in depths
    ]
    return (shape for turn in zip_longest(*ranked) for shape in turn if shape is not None)


def _unevenness(shape: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Ratio between the most and the least kept width axis."""
    kept = [shape[axis] / sizes[axis] for axis in ("hidden", "ffn", "effn", "expert") if axis in sizes]
    kept.append(shape["kv"] * shape["group"] / (sizes["kv"] * sizes["group"]))
    return max(kept) / min(kept)


def _nothing_fits(family: Family, budget: Budget, measured: Sequence[tuple[int, Sizes]]) -> BudgetError:
    wanted = f"{family.model_type}: no shape has {budget.low:,} to {budget.high:,} {budget.unit}"
    if not measured:
        return BudgetError(f"{wanted}; the family can express none.", "Allow more axes or grid values.")
    smallest = min(size for size, _ in measured)
    nearest = min(measured, key=lambda entry: abs(entry[0] - budget.target))[0]
    below = sorted((e for e in measured if e[0] < budget.low), key=lambda entry: -entry[0])
    above = sorted((e for e in measured if e[0] > budget.high), key=lambda entry: entry[0])
    sides = [
        f"{side} it {', '.join(f'{size:,} ({described(shape)})' for size, shape in found[:NUM_NEAREST])}"
        for side, found in (("below", below), ("above", above))
        if found
    ]
    return BudgetError(
        f"{wanted}; the smallest reachable is {smallest:,}. The nearest are {'; '.join(sides)}.",
        f"Ask for {nearest:,}, widen the tolerance, or allow more axes or grid values.",
    )
