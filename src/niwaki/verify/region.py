"""Parts of the real line: unions of intervals in order, taken from the line, and read from |ax + b| < c."""

from __future__ import annotations

from fractions import Fraction
from functools import cmp_to_key
from typing import Any

from niwaki.verify.reading import MINUS_INFINITY, PLUS_INFINITY, Region
from niwaki.verify.tree import Tree, symbols
from niwaki.verify.value import approximately, equal, exactly
from niwaki.verify.verdict import UnreadableError

Interval = tuple[Tree, bool, Tree, bool]  # low, low is included, high, high is included
_PROBES = [Fraction(number) for number in (0, 1, 2, -3, 7, -11)]


def tidy(intervals: tuple[Interval, ...]) -> list[Interval]:
    """The same region in order, without overlaps; ends that contain symbols are left as they stand.

    Raises:
        UnreadableError: an interval is empty, or holds an infinity.
    """
    for low, low_in, high, high_in in intervals:
        if (
            low in (PLUS_INFINITY,)
            or high in (MINUS_INFINITY,)
            or (low == MINUS_INFINITY and low_in)
            or (high == PLUS_INFINITY and high_in)
        ):
            raise UnreadableError
    ends = [
        end for part in intervals for end in (part[0], part[2]) if end not in (PLUS_INFINITY, MINUS_INFINITY)
    ]
    if any(symbols(end) for end in ends):
        return list(intervals)
    for low, low_in, high, high_in in intervals:
        order = _order(low, high)
        if order > 0 or (order == 0 and not (low_in and high_in)):
            raise UnreadableError
    ordered = sorted(intervals, key=cmp_to_key(_from_left))
    merged = [ordered[0]]
    for low, low_in, high, high_in in ordered[1:]:
        last = merged[-1]
        meeting = _order(last[2], low)
        if meeting > 0 or (meeting == 0 and (last[3] or low_in)):
            order = _order(last[2], high)
            if order < 0:
                merged[-1] = (last[0], last[1], high, high_in)
            else:
                merged[-1] = (last[0], last[1], last[2], last[3] or (order == 0 and high_in))
        else:
            merged.append((low, low_in, high, high_in))
    return merged


def complement(removed: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """The real line without `removed`.

    Raises:
        UnreadableError: nothing is left, or the order of the ends is unknown.
    """
    ordered = tidy(removed)
    if len(ordered) > 1 and any(
        symbols(end) - symbols(PLUS_INFINITY) for part in ordered for end in part[::2]
    ):
        raise UnreadableError
    left: list[Interval] = []
    start, start_in = MINUS_INFINITY, False
    for low, low_in, high, high_in in ordered:
        if low != MINUS_INFINITY:
            left.append((start, start_in, low, not low_in))
        start, start_in = high, not high_in
    if start != PLUS_INFINITY:
        left.append((start, start_in, PLUS_INFINITY, False))
    if not left:
        raise UnreadableError
    return tuple(left)


def of_absolute(sign: str, inside: Tree, bound: Tree) -> Region | None:
    """Where |inside| < bound (or >, \\le, \\ge): of an inside linear in one symbol, and a positive bound."""
    names = symbols(inside)
    if len(names) != 1 or symbols(bound) or _has_function(inside):
        return None
    name = next(iter(names))
    values = [exactly(_with(inside, name, probe)) for probe in _PROBES]
    at_zero, at_one = values[0], values[1]
    if at_zero is None or at_one is None or at_zero == at_one:
        return None
    slope = at_one - at_zero
    if any(value != at_zero + slope * probe for value, probe in zip(values, _PROBES, strict=True)):
        return None
    if not approximately(bound) > 0:
        return None
    ends = [
        ("div", ("sum", [bound_end, ("num", -at_zero)]), ("num", slope))
        for bound_end in (("neg", bound), bound)
    ]
    low, high = ends if slope > 0 else ends[::-1]
    closed = sign in {"\\le", "\\ge"}
    if sign in {"<", "\\le"}:
        return Region(((low, closed, high, closed),), name)
    return Region(((MINUS_INFINITY, False, low, closed), (high, closed, PLUS_INFINITY, False)), name)


def _with(tree: Any, name: str, number: Fraction) -> Any:
    if isinstance(tree, list):
        return [_with(child, name, number) for child in tree]
    if not isinstance(tree, tuple):
        return tree
    if tree == ("sym", name):
        return ("num", number)
    return tuple(_with(part, name, number) for part in tree)


def _has_function(tree: Any) -> bool:
    if isinstance(tree, list):
        return any(map(_has_function, tree))
    return isinstance(tree, tuple) and (tree[0] == "fn" or any(map(_has_function, tree[1:])))


def _from_left(a: Interval, b: Interval) -> int:
    return _order(a[0], b[0]) or int(b[1]) - int(a[1])


def _order(a: Tree, b: Tree) -> int:
    if a == b:
        return 0
    if a == MINUS_INFINITY or b == PLUS_INFINITY:
        return -1
    if a == PLUS_INFINITY or b == MINUS_INFINITY:
        return 1
    if equal(a, b):
        return 0
    return -1 if approximately(a) < approximately(b) else 1
