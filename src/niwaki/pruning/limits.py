"""Limits besides size: shapes that cost too much in service are not tried.

What a limit measures is the caller's, as a function from a shape (axis -> size) to a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from niwaki.errors import BudgetError

Sizes = dict[str, int]
NUM_NEAREST = 2


@dataclass(frozen=True)
class Limit:
    """`measure` of a shape may be `most` at most; `words` says such a number to people."""

    name: str
    most: float
    measure: Callable[[Sizes], float]
    words: Callable[[float], str]


def within(shapes: Iterable[Sizes], limits: Sequence[Limit]) -> Iterator[Sizes]:
    """The shapes inside every limit, one by one; a later limit is asked only of shapes inside the earlier."""
    return (shape for shape in shapes if all(limit.measure(shape) <= limit.most for limit in limits))


def nearest_to_limits(model_type: str, shapes: Sequence[Sizes], limits: Sequence[Limit]) -> BudgetError:
    """The error when no shape is inside the limits: which come nearest, and what would admit one."""

    def excess(shape: Sizes) -> float:
        return max(limit.measure(shape) / limit.most for limit in limits)

    nearest = sorted(shapes, key=excess)[:NUM_NEAREST]
    asked = " and ".join(f"{limit.name} at most {limit.words(limit.most)}" for limit in limits)
    found = "; ".join(
        f"{described(shape)} with {', '.join(f'{t.name} {t.words(t.measure(shape))}' for t in limits)}"
        for shape in nearest
    )
    broken = next(limit for limit in limits if limit.measure(nearest[0]) > limit.most)
    return BudgetError(
        f"{model_type}: none of the {len(shapes)} shapes of the right size has {asked}. "
        f"The nearest are {found}.",
        f"Allow {broken.name} {broken.words(broken.measure(nearest[0]))}, a smaller size, or more axes or "
        "grid values.",
    )


def described(shape: Mapping[str, int]) -> str:
    """A shape in words that can be written into a grid."""
    return " ".join(f"{axis}={size}" for axis, size in shape.items() if axis not in ("dim", "vocab"))
