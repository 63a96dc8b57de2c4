"""Whether two readings say the same. Symmetric, except that gold decides whether a unit is needed.

Order counts in tuples and brackets, not in sets and bare lists. Open and closed ends differ. A bare value
equals the assignment of that value; a relation equals its multiples; a true statement about numbers equals
nothing.
"""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any

from niwaki.verify.formula import Tree, symbols
from niwaki.verify.reading import (
    MINUS_INFINITY,
    PLUS_INFINITY,
    Collection,
    Quantity,
    Reading,
    Region,
    Relation,
    as_region,
)
from niwaki.verify.units import is_decoration
from niwaki.verify.value import approximately, equal, is_rounding_of
from niwaki.verify.verdict import RIGHT, Reason, UnreadableError

Interval = tuple[Tree, bool, Tree, bool]
_PERCENT = (("%", 1),)
_UNORDERED = {"set", "list"}


def compare(answer: Reading, gold: Reading, *, tolerance: float = 0.0) -> Reason:
    """Why `answer` is right or wrong against `gold`.

    Raises:
        UnreadableError: a value is too large, or has no value.
    """
    if isinstance(answer, Relation) and not symbols(answer.left) | symbols(answer.right):
        return Reason.IDENTITY
    if isinstance(gold, Region) or isinstance(answer, Region):
        return _regions(answer, gold)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _relations(answer, gold)
    if answer.label and gold.label and answer.label != gold.label:
        return Reason.DIFFERENT
    if isinstance(answer, Quantity) and isinstance(gold, Quantity):
        return _quantities(answer, gold, tolerance)
    if isinstance(answer, Collection) and isinstance(gold, Collection):
        return _collections(answer, gold, tolerance)
    return Reason.KIND_DIFFERS


def _quantities(answer: Quantity, gold: Quantity, tolerance: float) -> Reason:
    if answer.unit == gold.unit:
        return _values(answer, gold, tolerance)
    if _same_formula(answer, gold) or _same_formula(gold, answer):
        return Reason.EQUAL_VALUE
    if gold.unit is None:
        if answer.glued:
            return Reason.UNREADABLE
        return Reason.UNIT_DIFFERS if answer.unit == _PERCENT else _values(answer, gold, tolerance)
    if answer.unit is not None:
        return Reason.UNIT_DIFFERS
    if gold.unit == _PERCENT:
        ratio = ("div", gold.tree, ("num", 100))
        return Reason.EQUAL_VALUE if equal(answer.tree, ratio) else Reason.UNIT_MISSING
    return _values(answer, gold, tolerance) if is_decoration(gold.unit) else Reason.UNIT_MISSING


def _same_formula(one: Quantity, other: Quantity) -> bool:
    """Whether the letters read as a unit in one are symbols of the other: "3 m g" and "\\frac{6mg}{2}".

    Units of more than one letter are not products of symbols: mN is no Nm.
    """
    if any(len(symbol) > 1 for symbol, _ in one.unit or ()):
        return False
    return (
        one.formula is not None
        and other.unit is None
        and bool(symbols(other.tree))
        and equal(one.formula, other.tree)
    )


def _values(answer: Quantity, gold: Quantity, tolerance: float) -> Reason:
    if answer.tree == gold.tree or equal(answer.tree, gold.tree):
        return Reason.EQUAL_VALUE
    if symbols(answer.tree) or symbols(gold.tree):
        return Reason.DIFFERENT
    if is_rounding_of(answer.tree, answer.text, gold.tree) or is_rounding_of(
        gold.tree, gold.text, answer.tree
    ):
        return Reason.EQUAL_VALUE
    if tolerance > 0 and abs(approximately(answer.tree) - approximately(gold.tree)) <= tolerance * abs(
        approximately(gold.tree)
    ):
        return Reason.WITHIN_TOLERANCE
    return Reason.DIFFERENT


def _collections(answer: Collection, gold: Collection, tolerance: float) -> Reason:
    unordered = {answer.kind, gold.kind} <= _UNORDERED
    if not unordered and answer.kind != gold.kind:
        return Reason.KIND_DIFFERS
    answers, golds = list(answer.items), list(gold.items)
    if answer.kind == gold.kind == "set":
        answers, golds = _distinct(answers), _distinct(golds)
    if len(answers) != len(golds):
        return Reason.DIFFERENT
    for index, wanted in enumerate(golds):
        for given in answers if unordered else [answers[index]]:
            if compare(given, wanted, tolerance=tolerance) in RIGHT:
                if unordered:
                    answers.remove(given)
                break
        else:
            return Reason.DIFFERENT
    return Reason.EQUAL_VALUE


def _distinct(items: list[Reading]) -> list[Reading]:
    kept: list[Reading] = []
    for item in items:
        if not any(compare(item, other) in RIGHT for other in kept):
            kept.append(item)
    return kept


def _regions(answer: Reading, gold: Reading) -> Reason:
    try:
        first, second = as_region(answer), as_region(gold)
    except UnreadableError:
        return Reason.KIND_DIFFERS
    if first.label and second.label and first.label != second.label:
        return Reason.DIFFERENT
    left, right = _tidy(first.intervals), _tidy(second.intervals)
    if len(left) != len(right):
        return Reason.DIFFERENT
    for one, other in zip(left, right, strict=True):
        if one[1] != other[1] or one[3] != other[3]:
            return Reason.DIFFERENT
        if not (equal(one[0], other[0]) and equal(one[2], other[2])):
            return Reason.DIFFERENT
    return Reason.EQUAL_VALUE


def _tidy(intervals: tuple[Interval, ...]) -> list[Interval]:
    """The same region in order, without overlaps; ends that contain symbols are left as they stand."""
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


def _relations(answer: Reading, gold: Reading) -> Reason:
    first, second = _as_relation(answer), _as_relation(gold)
    if first is None or second is None or first.sign != second.sign:
        return Reason.KIND_DIFFERS
    left, right = _difference(first), _difference(second)
    names = symbols(left)
    if not names or names != symbols(right) or equal(left, ("num", 0)) or equal(right, ("num", 0)):
        return Reason.IDENTITY if not names else Reason.DIFFERENT
    if first.sign != "=":
        return Reason.EQUAL_VALUE if equal(left, right) else Reason.DIFFERENT
    # left / right is constant exactly if left(x) right(y) = left(y) right(x)
    crossed = equal(("prod", [left, _renamed(right)]), ("prod", [_renamed(left), right]))
    return Reason.EQUAL_VALUE if crossed else Reason.DIFFERENT


def _as_relation(reading: Reading) -> Relation | None:
    """A relation; also `y = 2x + 1`, but not `x = 5`, which solves and does not relate."""
    if isinstance(reading, Relation):
        return reading
    if isinstance(reading, Quantity) and reading.label and symbols(reading.tree):
        return Relation("=", ("sym", reading.label), reading.tree)
    return None


def _difference(relation: Relation) -> Tree:
    return ("sum", [relation.left, ("neg", relation.right)])


def _renamed(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_renamed(child) for child in tree]
    if not isinstance(tree, tuple):
        return tree
    return ("sym", tree[1] + " other") if tree[0] == "sym" else tuple(_renamed(part) for part in tree)
