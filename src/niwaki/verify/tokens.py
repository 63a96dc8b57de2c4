"""The signs, numbers, letters and commands of a spelled formula, and the values of its numbers."""

from __future__ import annotations

import re
from fractions import Fraction

from niwaki.verify.verdict import Reason, UnreadableError

Token = tuple[str, str]  # kind, text; kinds: number repeating command letter sign space end

_MOST_TOKENS = 400
_LARGEST_TEN_POWER = 15_000

_NUMBER = (
    r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?: \d{3})+(?!\d| ?\d)|\d{1,3}(?:_\d{3})+(?!\d)|\d+)?"
    r"(?:\.\d+)?"
)
_TOKEN = re.compile(
    r"\s*(?:(?P<repeating>\d*\.\d*\\overline \{(?P<period>\d{1,40})\})"
    rf"|(?P<number>(?=\.?\d){_NUMBER}\.?(?:[eE][+-]?\d{{1,6}}(?![\d.]))?)"
    r"|\\(?P<command>[A-Za-z]+)|(?P<word>[A-Za-z]+)|(?P<sign>\\[{}|]|[-+*/^_!(){}\[\]|°%']))",
    re.ASCII,
)
_FUNCTIONS_TABLE = """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp
"""
FUNCTIONS = frozenset(_FUNCTIONS_TABLE.split())
_SPELLED = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
# What our own methods do not do, and a computer algebra system may.
BEYOND_US = frozenset(
    ["int", "iint", "oint", "sum", "prod", "lim", "begin", "det", "partial", "nabla", "vec", "hat"]
)


class UnsupportedError(UnreadableError):
    """A construct that our own methods do not know but a computer algebra system may."""


def tokens_of(text: str) -> list[Token]:
    """Every token of `text`, with a `space` token where space stood.

    Raises:
        UnsupportedError: a command that only a computer algebra system knows.
        UnreadableError: a word or sign that belongs to no formula, or too many tokens.
    """
    tokens: list[Token] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= _MOST_TOKENS:
            raise UnreadableError
        if text[position].isspace():
            tokens.append(("space", " "))
        kind = match.lastgroup or ""
        kind = "repeating" if match["repeating"] else kind
        if kind == "command" and match["command"] in BEYOND_US:
            raise UnsupportedError
        if kind == "word":
            tokens += _words(match["word"])
        else:
            tokens.append((kind, match[kind]))
        position = match.end()
    return tokens


def _words(word: str) -> list[Token]:
    word = _SPELLED.get(word, word)
    if word in FUNCTIONS or word in {"sqrt", "pi", "abs", "infinity"}:
        return [("command", {"infinity": "infty"}.get(word, word))]
    if len(word) > 3 or word.lower() in {
        "or",
        "and",
        "not",
        "to",
        "is",
        "of",
        "in",
        "no",
        "nan",
        "inf",
        "mod",
    }:
        raise UnreadableError
    return [("letter", letter) for letter in word]


def number_of(text: str) -> Fraction:
    """The value of a `number` token."""
    mantissa, _, exponent = text.lower().partition("e")
    digits = mantissa.replace(",", "").replace(" ", "").replace("_", "").rstrip(".")
    if abs(int(exponent or 0)) > _LARGEST_TEN_POWER:
        raise UnreadableError(Reason.TOO_LARGE)
    return Fraction(digits) * Fraction(10) ** int(exponent or 0)


def repeating_of(text: str) -> Fraction:
    """The value of a `repeating` token, such as 0.1\\overline{6}."""
    head, _, tail = text.partition("\\overline")
    period = tail.strip(" {}")
    whole, _, fixed = head.strip().partition(".")
    shift = Fraction(1, 10 ** len(fixed))
    return Fraction(f"{whole or 0}.{fixed or 0}") + shift * Fraction(int(period), 10 ** len(period) - 1)
