"""Whether two readings say the same. Symmetric, except that gold decides whether a unit is needed.

Order counts in tuples and brackets, not in sets and bare lists. Open and closed ends differ. A bare value
equals the assignment of that value; a relation equals its multiples; a true statement about numbers equals
nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from niwaki.verify.reading import (
    Collection,
    Quantity,
    Reading,
    Region,
    Relation,
    as_region,
)
from niwaki.verify.region import tidy
from niwaki.verify.tree import Tree, symbols
from niwaki.verify.units import Unit, is_decoration
from niwaki.verify.value import approximately, equal, is_rounding_of
from niwaki.verify.verdict import RIGHT, Reason, UnreadableError

_PERCENT = (("%", 1),)
_DEGREES: dict[Unit | None, Unit] = {(("°C", 1),): (("C", 1),), (("°F", 1),): (("F", 1),)}  # 37 C for 37 °C
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
    if isinstance(answer, Collection) and isinstance(gold, Collection):
        answer, gold = _as_tuples(answer, gold)
    if answer.label and gold.label and answer.label != gold.label:
        return Reason.DIFFERENT
    if isinstance(answer, Quantity) and isinstance(gold, Quantity):
        return _quantities(answer, gold, tolerance)
    if isinstance(answer, Collection) and isinstance(gold, Collection):
        return _collections(answer, gold, tolerance)
    if any(isinstance(one, Collection) and one.kind == "proportion" for one in (answer, gold)):
        return _ratio_and_fraction(answer, gold)
    return Reason.KIND_DIFFERS


def _as_tuples(answer: Collection, gold: Collection) -> tuple[Collection, Collection]:
    """Of a tuple and a list, the list as a tuple: "x = 1, y = 2" is (1, 2)."""
    if answer.kind == "list" and gold.kind == "()" and (ordered := _ordered(answer, gold)):
        return ordered, replace(gold, label=None)
    if gold.kind == "list" and answer.kind == "()" and (ordered := _ordered(gold, answer)):
        return replace(answer, label=None), ordered
    return answer, gold


def _ordered(assignments: Collection, pair: Collection) -> Collection | None:
    """The values in the order of the names in "(x, y) = ...", or else of letters that follow each other."""
    values = {item.label: item for item in assignments.items if isinstance(item, Quantity) and item.label}
    if not len(values) == len(assignments.items) == len(pair.items) or len(values) < 2:
        return None
    names = pair.label.strip("()").split(",") if pair.label else sorted(values)
    follow = all(name == chr(ord(names[0][0]) + place) for place, name in enumerate(names))
    if set(names) != set(values) or not (pair.label or follow):
        return None
    return Collection("()", tuple(replace(values[name], label=None) for name in names))


def _ratio_and_fraction(answer: Reading, gold: Reading) -> Reason:
    """3:2 is 3/2, and neither 1.5 nor, as 42:1, a whole number."""
    ratio, other = (answer, gold) if isinstance(answer, Collection) else (gold, answer)
    assert isinstance(ratio, Collection)
    if not isinstance(other, Quantity) or other.unit or other.tree[0] != "div" or len(ratio.items) != 2:
        return Reason.KIND_DIFFERS
    if not all(part[0] == "num" for part in other.tree[1:]):
        return Reason.KIND_DIFFERS
    same = equal(("div", *(item.tree for item in ratio.items if isinstance(item, Quantity))), other.tree)
    return Reason.EQUAL_VALUE if same else Reason.DIFFERENT


def _quantities(answer: Quantity, gold: Quantity, tolerance: float) -> Reason:
    if answer.unit == gold.unit or (gold.unit in _DEGREES and answer.unit == _DEGREES[gold.unit]):
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
    if any(one.rounded and equal(one.rounded, other.tree) for one, other in ((answer, gold), (gold, answer))):
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
    if answer.kind == "proportion":
        return _proportions(answer, gold)
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


def _proportions(answer: Collection, gold: Collection) -> Reason:
    """4:6 is 2:3: every part of one is the same multiple of that of the other."""
    given, wanted = (
        [item.tree for item in one.items if isinstance(item, Quantity)] for one in (answer, gold)
    )
    if len(given) != len(wanted):
        return Reason.DIFFERENT
    crossed = all(
        equal(("prod", [one, wanted[0]]), ("prod", [other, given[0]]))
        for one, other in zip(given, wanted, strict=True)
    )
    return Reason.EQUAL_VALUE if crossed else Reason.DIFFERENT


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
    left, right = tidy(first.intervals), tidy(second.intervals)
    if len(left) != len(right):
        return Reason.DIFFERENT
    for one, other in zip(left, right, strict=True):
        if one[1] != other[1] or one[3] != other[3]:
            return Reason.DIFFERENT
        if not (equal(one[0], other[0]) and equal(one[2], other[2])):
            return Reason.DIFFERENT
    return Reason.EQUAL_VALUE


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
