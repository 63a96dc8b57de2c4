"""The four things that a mathematical answer can say."""

from __future__ import annotations

from dataclasses import dataclass

from niwaki.verify.tree import Tree
from niwaki.verify.units import Unit
from niwaki.verify.verdict import UnreadableError

PLUS_INFINITY: Tree = ("sym", "\\infty")
MINUS_INFINITY: Tree = ("neg", PLUS_INFINITY)


@dataclass(frozen=True)
class Quantity:
    """A value, with its unit when it has one, and the name it was assigned to."""

    tree: Tree
    text: str
    unit: Unit | None = None
    label: str | None = None
    glued: bool = False  # the unit is one letter that touches the number, and might be a symbol
    formula: Tree | None = None  # where a unit was read: the text with its letters as symbols
    rounded: Tree | None = None  # where "1/3 ≈ 0.33" says both: the rounded value


@dataclass(frozen=True)
class Collection:
    """Several readings. Kinds: `set` and `list` have no order; all others have one.

    `()` and `[]` are tuples, `proportion` is 2:3, and `parts` is what equals itself only: 3:30, 1010_2.
    """

    kind: str
    items: tuple[Reading, ...]
    label: str | None = None


@dataclass(frozen=True)
class Region:
    """A union of intervals (low, low is included, high, high is included) of the real line."""

    intervals: tuple[tuple[Tree, bool, Tree, bool], ...]
    label: str | None = None


@dataclass(frozen=True)
class Relation:
    """An equation or inequality that is no assignment and no region of one symbol."""

    sign: str
    left: Tree
    right: Tree


Reading = Quantity | Collection | Region | Relation


def as_region(reading: Reading) -> Region:
    """An interval written as a pair, or single points, as a region."""
    if isinstance(reading, Region):
        return reading
    if isinstance(reading, Collection) and len(reading.items) == 2 and reading.kind in {"()", "[]"}:
        low, high = reading.items
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            closed = reading.kind == "[]"
            return Region(((low.tree, closed, high.tree, closed),), reading.label)
    if isinstance(reading, Collection) and reading.kind == "set":
        points = [item for item in reading.items if isinstance(item, Quantity)]
        if len(points) == len(reading.items):
            return Region(tuple((point.tree, True, point.tree, True) for point in points))
    if isinstance(reading, Quantity) and reading.label:
        return Region(((reading.tree, True, reading.tree, True),), reading.label)
    raise UnreadableError
