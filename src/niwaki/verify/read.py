"""From a spelled text to what it says: a quantity, a collection, a region of the line, or a relation."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from niwaki.verify.formula import LONGEST_FORMULA_CHARS, parse
from niwaki.verify.joined import all_of, any_of
from niwaki.verify.quantity import read_quantity
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
from niwaki.verify.region import complement, of_absolute
from niwaki.verify.split import closed_pair, outside, split_outside
from niwaki.verify.tokens import FUNCTIONS
from niwaki.verify.tree import Tree, symbols
from niwaki.verify.value import approximately, equal
from niwaki.verify.verdict import Reason, UnreadableError

_MOST_ITEMS = 30

_RELATION = re.compile(r"\\(?:le|ge|ne|in|approx|equiv|sim)(?![A-Za-z])|[<>=]")
_OR = re.compile(r"(?:\bor\b|\\lor(?![A-Za-z]))")
_AND = re.compile(r"(?:\band\b|\\land(?![A-Za-z]))")
_LABEL = re.compile(
    r"(?:\\?[A-Za-z]+(?:\s?_\s?(?:\{[^{}]{1,20}\}|\w))?'{0,3}(?:\s?\([^()=<>]{1,20}\))?|\(\s?[A-Za-z](?:\s?,\s?[A-Za-z]){1,3}\s?\))"
)
_RATIO = re.compile(r"\d{1,9}(?:\.\d{1,9})?(?:\s*(?::|\bto\b)\s*\d{1,9}(?:\.\d{1,9})?){1,4}")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])")
_CLOCK = re.compile(r"\d{1,2}(?::\d{2}){1,2}")
_REALS = re.compile(r"\\mathbb\s?\{\s?R\s?\}|all real numbers|all reals", re.IGNORECASE)
_REALS_BUT = re.compile(
    rf"(?:{_REALS.pattern})\s*,?\s*(?:except|but not|other than|excluding)\s+(?:for\s+)?(?:[a-z]\s*=\s*)?",
    re.IGNORECASE,
)
_BUILDER = re.compile(r"\\?\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\s?\{\s?R\s?\}\s*)?[|:]([^{}]+)\\?\}\Z")
_MATRIX = re.compile(r"\\begin\s?\{[pbB]?matrix\}(.*)\\end\s?\{[pbB]?matrix\}")
_BASE = re.compile(r"([0-9A-F]+)\s?_\s?\{?\s?(\d{1,2}|\w{3,12})\s?\}?")


def read(text: str, *, lists: bool = False, lone_word: bool = False) -> Reading:
    """The reading of a spelled text. With `lists`, every comma separates, 100,200 included.

    Raises:
        UnsupportedError: it uses what only a computer algebra system knows.
        UnreadableError: it says nothing certain, or several things.
    """
    text = text.strip()
    if not text:
        raise UnreadableError(Reason.EMPTY_ANSWER)
    if len(text) > LONGEST_FORMULA_CHARS:
        raise UnreadableError(Reason.TOO_LONG)
    if builder := _BUILDER.match(text):
        return as_region(read(builder[1].rstrip("\\")))
    if matrix := _MATRIX.fullmatch(text):
        rows = [row for row in matrix[1].split("\\newline") if row.strip()]
        return Collection("matrix", tuple(Collection("()", _items(row.split("&"))) for row in rows))
    if _REALS.fullmatch(text):
        return Region(((MINUS_INFINITY, False, PLUS_INFINITY, False),))
    if but := _REALS_BUT.match(text):
        return _reals_without("\\mathbb{R}", text[but.end() :])
    if len(parts := split_outside(text, r"\\setminus(?![A-Za-z])")) == 2:
        return _reals_without(parts[0], parts[1])
    if len(parts := split_outside(text, _AND.pattern)) > 1 and any(
        outside(part, _RELATION.pattern) for part in parts
    ):
        return all_of([read(part, lists=lists) for part in parts])
    if len(parts := split_outside(text, r"\\cup(?![A-Za-z])")) > 1:
        return any_of([as_region(read(part)) for part in parts])
    parts = split_outside(text, rf"{_OR.pattern}|{_AND.pattern}|;")
    if len(parts) > 1:
        return any_of([_read_part(part, lists) for part in parts])
    return _read_part(text, lists, lone_word)


def _read_part(text: str, lists: bool, lone_word: bool = False) -> Reading:
    text = text.strip().rstrip(",").strip()
    signs = outside(text, _RELATION.pattern)
    commas = _commas(text, lists)
    if len(commas) > 1:
        return _listed(commas)
    if signs:
        return _related(text, signs, lists)
    return _one(text, lists, lone_word)


def _commas(text: str, lists: bool) -> list[str]:
    """`text` cut at its commas. A comma that groups digits by three does not separate, unless others that are
    followed by a space are missing and a list is expected."""
    spaced = split_outside(text, r",\s")
    if len(spaced) > 1 and all(_GROUPED.sub("", part).count(",") == 0 or _brackets(part) for part in spaced):
        return spaced
    if not lists and _GROUPED.fullmatch(text):
        return [text]
    return split_outside(text, "," if lists else r",(?!\d{3}(?!\d))|(?<!\d),")


def _brackets(text: str) -> bool:
    return "(" in text or "{" in text or "[" in text


def _listed(parts: list[str]) -> Reading:
    if len(parts) > _MOST_ITEMS:
        raise UnreadableError(Reason.TOO_LONG)
    items = [read(part) for part in parts]
    if any(isinstance(item, Region | Relation) for item in items):
        raise UnreadableError  # "x < 1, x > 2": both, or one of them?
    return any_of(items)


def _related(text: str, signs: list[tuple[int, int, str]], lists: bool) -> Reading:
    names = [sign for _, _, sign in signs]
    edges = [0, *[edge for start, end, _ in signs for edge in (start, end)], len(text)]
    parts = [text[edges[index] : edges[index + 1]].strip() for index in range(0, len(edges), 2)]
    if not all(parts):
        raise UnreadableError
    if names == ["\\in"]:
        inner = read(parts[1], lists=True)
        return replace(inner, label=_label(parts[0])) if not isinstance(inner, Relation) else inner
    if set(names) == {"="}:
        return _equation(parts, lists)
    if names == ["\\approx"]:
        return _rounded(*parts)
    if names == ["\\ne"] and (label := _label(parts[0])):
        return replace(_reals_without("\\mathbb{R}", parts[1]), label=label)
    if len(names) == 1 and names[0] in _FLIPPED:
        return _inequality(names[0], parts)
    if len(names) == 2 and (names[0][-2:], names[1][-2:]) in _CHAINS and (label := _label(parts[1])):
        low, high = (parts[0], parts[2]) if names[0] in {"<", "\\le"} else (parts[2], parts[0])
        low_sign, high_sign = names if names[0] in {"<", "\\le"} else names[::-1]
        return Region(((_endpoint(low), len(low_sign) > 1, _endpoint(high), len(high_sign) > 1),), label)
    raise UnreadableError


_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_CHAINS = {
    ("<", "<"),
    ("<", "le"),
    ("le", "<"),
    ("le", "le"),
    (">", ">"),
    (">", "ge"),
    ("ge", ">"),
    ("ge", "ge"),
}


def _inequality(sign: str, parts: list[str]) -> Reading:
    left, right = parse(parts[0], lone_word=True), parse(parts[1], lone_word=True)
    for one, other, way in ((left, right, sign), (right, left, _FLIPPED[sign])):
        if one[:2] == ("fn", "abs") and (region := of_absolute(way, one[2][0], other)):
            return region
    if left[0] == "sym" and left[1] not in symbols(right):
        bound, name = right, left[1]
    elif right[0] == "sym" and right[1] not in symbols(left):
        bound, name, sign = left, right[1], _FLIPPED[sign]
    else:
        return Relation(sign, left, right) if sign in {"<", "\\le"} else Relation(_FLIPPED[sign], right, left)
    if sign in {"<", "\\le"}:
        return Region(((MINUS_INFINITY, False, bound, sign != "<"),), name)
    return Region(((bound, sign != ">", PLUS_INFINITY, False),), name)


def _equation(parts: list[str], lists: bool) -> Reading:
    """ "x = 5" is 5 with a label; "x = 2 + 3 = 5" too, if the chain is true; "2 + 3 = 5" is a relation."""
    label = _label(parts[0])
    if label is None and len(parts) == 2 and _label(parts[1]):
        parts, label = parts[::-1], _label(parts[1])
    if label is not None:
        values = [_one(part, lists, True) for part in parts[1:]]
        last = values[-1]
        names = set(re.findall(r"[A-Za-z]", label if "(" not in label else label.partition("(")[0] or label))
        own = symbols(last.tree) if isinstance(last, Quantity) else set()
        if isinstance(last, Relation) or (label in own) or (len(label) == 1 and own & names):
            raise UnreadableError(Reason.IDENTITY if parts[-1] == parts[0] else Reason.UNREADABLE)
        if not all(_same_value(one, last) for one in values[:-1]):
            raise UnreadableError
        return replace(last, label=label)
    if len(parts) != 2:
        raise UnreadableError
    return Relation("=", parse(parts[0], lone_word=True), parse(parts[1], lone_word=True))


def _rounded(exact: str, decimal: str) -> Reading:
    """ "1/3 ≈ 0.33": a value and its rounding, which has to be one."""
    value, rounding = read_quantity(exact), read_quantity(decimal)
    places = len(decimal.partition(".")[2])
    if rounding.unit != value.unit or not re.fullmatch(r"-?\d+\.\d+", rounding.text.strip()):
        raise UnreadableError
    if abs(approximately(value.tree) - approximately(rounding.tree)) * 2 * 10**places > 1:
        raise UnreadableError
    return replace(value, rounded=rounding.tree)


def _same_value(one: Reading, other: Reading) -> bool:
    return isinstance(one, Quantity) and isinstance(other, Quantity) and equal(one.tree, other.tree)


def _label(text: str) -> str | None:
    text = text.strip()
    if not _LABEL.fullmatch(text) or text in {"e", "i", "\\pi", "pi"} or text.startswith("\\in"):
        return None
    if re.split(r"[^A-Za-z]", text.lstrip("\\"))[0] in FUNCTIONS:  # sin(0) = 0
        return None
    return re.sub(r"[\s{}]", "", text)


def _one(text: str, lists: bool, lone_word: bool = False) -> Reading:
    """One item: something in brackets, a plus-minus, a ratio, or a quantity."""
    text = text.strip()
    if len(re.findall(r"\\[pm]{2}(?![A-Za-z])", text)) and (pair := _plus_minus(text)):
        return Collection("list", tuple(_one(one, lists) for one in pair))
    if text in {"\\emptyset", "\\{\\}", "\\{ \\}", "{}", "\\{ }"}:
        return Collection("set", ())
    if pair_signs := closed_pair(text):
        left, right = pair_signs
        inside = text[len(left) : len(text) - len(right)]
        parts = _commas(inside, True)
        if left in {"\\{", "{"} and (left == "\\{" or len(parts) > 1):
            return Collection("set", _items(parts))
        if left == "\\langle" and len(parts) > 1:
            return Collection("()", _items(parts))
        if len(parts) > 1 and (left, right) in {("(", ")"), ("[", "]")}:
            return Collection(left + right, _items(parts))
        if len(parts) == 2 and {left, right} <= set("()[]"):
            return Region(((_endpoint(parts[0]), left == "[", _endpoint(parts[1]), right == "]"),))
    if base := _BASE.fullmatch(text):
        return Collection("parts", tuple(Quantity(("sym", part), part) for part in base.groups()))
    if _RATIO.fullmatch(text):
        return _ratio(text)
    return read_quantity(text, lone_word=lone_word)


def _items(parts: list[str]) -> tuple[Reading, ...]:
    if len(parts) > _MOST_ITEMS:
        raise UnreadableError(Reason.TOO_LONG)
    items: list[Reading] = []
    for part in parts:
        item = read(part)
        items += item.items if isinstance(item, Collection) and item.kind == "list" else [item]
    return tuple(items)


def _ratio(text: str) -> Reading:
    parts = re.findall(r"[\d.]+", text)
    numbers = tuple(Quantity(("num", Fraction(part)), part) for part in parts)
    if _CLOCK.fullmatch(text):  # 3:30 may be a time, and is only itself
        return Collection("parts", numbers)
    if any(number.tree[1] == 0 for number in numbers):
        raise UnreadableError
    return Collection("proportion", numbers)


def _plus_minus(text: str) -> tuple[str, str] | None:
    signs = re.findall(r"\\(pm|mp)(?![A-Za-z])", text)
    if len(signs) > 1 and len(set(signs)) == 1:
        raise UnreadableError
    pairs = [{"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"}]
    plus, minus = (re.sub(r"\\(pm|mp)(?![A-Za-z])", lambda m, p=pair: p[m[1]], text) for pair in pairs)  # type: ignore[misc]
    return plus, minus


def _endpoint(text: str) -> Tree:
    text = text.strip()
    return parse(text.removeprefix("+"), lone_word=True)


def _reals_without(whole: str, points: str) -> Region:
    base, removed = as_region(read(whole)), read(points, lists=True)
    if [part[::2] for part in base.intervals] != [(MINUS_INFINITY, PLUS_INFINITY)]:
        raise UnreadableError
    if isinstance(removed, Quantity):
        removed = Collection("set", (removed,))
    elif isinstance(removed, Collection) and removed.kind == "list":
        removed = replace(removed, kind="set")
    return Region(complement(as_region(removed).intervals))
