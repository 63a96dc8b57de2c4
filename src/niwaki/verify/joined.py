"""Several readings as one: joined by "or", and by "and"."""

from __future__ import annotations

from dataclasses import replace

from niwaki.verify.reading import (
    MINUS_INFINITY,
    PLUS_INFINITY,
    Collection,
    Reading,
    Region,
    Relation,
    as_region,
)
from niwaki.verify.verdict import UnreadableError


def any_of(items: list[Reading]) -> Reading:
    """Join readings by "or" or a comma: "2 or 3", "x = 2, 3", "(0, 1) ∪ (2, 3)".

    Raises:
        UnreadableError: they do not go together.
    """
    if any(isinstance(item, Region) for item in items):
        regions = [as_region(item) for item in items]
        labels = {region.label for region in regions} - {None}
        if len(labels) > 1:
            raise UnreadableError
        return Region(
            tuple(part for region in regions for part in region.intervals), next(iter(labels), None)
        )
    if any(isinstance(item, Relation) for item in items):
        raise UnreadableError
    flat: list[Reading] = []
    label = None
    for item in items:
        inner = list(item.items) if isinstance(item, Collection) and item.kind in {"list", "set"} else [item]
        label = getattr(item, "label", None) or label
        flat += [
            one if isinstance(one, Relation) or one.label else replace(one, label=label) for one in inner
        ]
    labels = {one.label for one in flat if not isinstance(one, Relation)}
    if len(labels) == 1:
        flat = [one if isinstance(one, Relation) else replace(one, label=None) for one in flat]
        return Collection("list", tuple(flat), label=labels.pop())
    return Collection("list", tuple(flat))


def all_of(items: list[Reading]) -> Reading:
    """Join readings by "and": "x > 1 and x < 5" is one interval; "x = 1 and y = 2" a list of assignments.

    Raises:
        UnreadableError: they do not go together.
    """
    if not all(isinstance(item, Region) for item in items):
        if any(isinstance(item, Region) for item in items):
            raise UnreadableError
        return any_of(items)
    if len(items) != 2 or len({item.label for item in items if isinstance(item, Region)}) != 1:
        raise UnreadableError
    first, second = (item.intervals for item in items if isinstance(item, Region))
    if len(first) != 1 or len(second) != 1:
        raise UnreadableError
    if first[0][0] == MINUS_INFINITY and second[0][2] == PLUS_INFINITY:
        first, second = second, first
    if first[0][2] != PLUS_INFINITY or second[0][0] != MINUS_INFINITY:
        raise UnreadableError
    label = items[0].label if isinstance(items[0], Region) else None
    return Region(((first[0][0], first[0][1], second[0][2], second[0][3]),), label)
