"""A number or formula with its unit, its currency, or the power of ten that a word puts on it."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from niwaki.verify.formula import parse
from niwaki.verify.reading import Quantity
from niwaki.verify.tokens import UnsupportedError
from niwaki.verify.tree import symbols
from niwaki.verify.units import Unit, multiplier, read_unit
from niwaki.verify.verdict import UnreadableError

_CURRENCY = re.compile(
    r"([-+]?)\s*(?:(?:US|USD)?\s*\\?\$|(€|£|¥|₹)|(USD|EUR|GBP|JPY|INR)(?=[\s\d]))\s*(?=[\d.\\])"
)
_DOLLARS_BEHIND = re.compile(r"([-+]?[\d.,]+)\s?\\\$")
_CODES = {"€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR"}
_ANGLE = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_UNIT_FRACTION = re.compile(r"(?<=\d) ?\\frac \{([^{}\d]{1,20})\} ?\{([^{}\d]{1,20}(?:\^\s?\d)?)\}\Z")
_BRACKETED = re.compile(r"\([^()]*\)")


def read_quantity(text: str, *, lone_word: bool = False) -> Quantity:
    """The quantity that a spelled text states.

    A unit is read where a closed formula is followed by the name of one; `formula` keeps the other reading,
    in which the letters are symbols.
    """
    money, text = _currency(_UNIT_FRACTION.sub(r" \1/\2", text))
    formula, failure = None, UnreadableError()
    try:
        formula = parse(text, lone_word=lone_word)
    except UnsupportedError:
        raise
    except UnreadableError as error:
        failure = error
    found = None if formula is not None and not symbols(formula) and "°" not in text else _with_unit(text)
    if found is None:
        if formula is None:
            raise failure
        return Quantity(formula, text, unit=money)
    if money is not None:
        if found.unit not in {None, money}:
            raise UnreadableError
        return replace(found, unit=money)
    return replace(found, formula=formula)


def _currency(text: str) -> tuple[Unit | None, str]:
    """The currency in front of a number, or the dollar sign behind it, and the rest of the text."""
    if behind := _DOLLARS_BEHIND.fullmatch(text):
        return (("USD", 1),), behind[1]
    match = _CURRENCY.match(text)
    if match is None:
        return None, text
    code = match[3] or _CODES.get((match[2] or ""), "USD")
    return ((code, 1),), match[1] + text[match.end() :]


def _with_unit(text: str) -> Quantity | None:
    """A closed formula followed by a unit, split at the first place where both can be read."""
    for match in re.finditer(r"(?<![A-Za-z\\µμΩ])(?:[A-Za-zµμΩ]|[°%€£¥₹¢])", text):
        head, tail = text[: match.start()].rstrip(), text[match.start() :]
        if not head or head.endswith(("^", "_", "\\", "/", "*", "+", "-")) or _ANGLE.search(head):
            continue
        first, _, rest = tail.partition(" ")
        power = multiplier(first)
        unit = read_unit(rest if power else tail)
        if unit is None and (not power or rest.strip()):
            continue
        try:
            tree = parse(head[1:-1] if _BRACKETED.fullmatch(head) else head)
        except UnreadableError:
            continue
        if symbols(tree):
            continue
        if power:
            tree = ("prod", [tree, ("num", Fraction(10) ** power)])
        glued = text[match.start() - 1] != " " and re.match(r"[A-Za-z](?![A-Za-z])", tail) is not None
        return Quantity(tree, head, unit=unit, glued=glued)
    return None
