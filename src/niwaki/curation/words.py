"""A question as the words that duplicates and contamination are looked for in, and hashes of them.

Words are letters and digits after case folding and without markup, so that LaTeX and layout may vary.
Hashes are 64 bits, the same on every machine.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from niwaki.verify.question import Question

_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|dfrac|tfrac|frac|text|textbf|mathrm|mathbf|quad|qquad|cdot|times|le|ge|leq|geq"
    r"|begin|end|boxed|[,;:! ])(?![A-Za-z])|\$|\[asy\].*?\[/asy\]",
    re.DOTALL | re.IGNORECASE,
)
_WORD = re.compile(r"[a-z]+|\d+", re.ASCII)
_FOREIGN_WORD = re.compile(r"[^\W\d_]+|\d+")
_SIGNED = re.compile(r"[a-z]+|\d+|[-+*/^=<>]", re.ASCII)
_BRACKETED = re.compile(r"[^\W\d_]+|\d+|[()\[\]]")
_DISPLAY = re.compile(r"\\[()\[\]]")
_SPELLED_SIGNS = {
    r"\\(?:cdot|times|ast)(?![A-Za-z])|[×·⋅∗]": " * ", r"\\(?:d|t|c)?frac(?![A-Za-z])": " / ",
    r"\\div(?![A-Za-z])|[÷⁄∕]": " / ", r"\\(?:le|leq|leqslant)(?![A-Za-z])|[≤⩽]": " <= ",
    r"\\(?:ge|geq|geqslant)(?![A-Za-z])|[≥⩾]": " >= ", r"\\(?:ne|neq)(?![A-Za-z])|≠": " != ", r"[−–—]": "-",
    r"\\(?:left|right|displaystyle|quad|qquad|boxed|mbox)(?![A-Za-z])"
    r"|\\[,;:! \\\[\]()]|\$": " ",
}  # fmt: skip
_SPELL = [(re.compile(pattern, re.DOTALL), sign) for pattern, sign in _SPELLED_SIGNS.items()]
_LONE_BRACES = re.compile(r"\\(?:text|math)[a-z]*\s*\{([^{}]*)\}|\{\s*(\d+|[a-z]|\\[a-z]+)\s*\}")
_MARKUP = re.compile(r"(?<!\w)\*\*|\*\*(?!\w)|_{2,}|(?<=[^\W\d_])-(?=[^\W\d_])|^\s*[-*#]+\s", re.MULTILINE)
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['’][^\W\d_]+")
_TOKEN = re.compile(r"\\[a-z]+|\d+(?:\.\d+)*|[^\W\d_]+|[-+*/^=<>!|%()\[\]{}_~&'’]")
_LIKE_SIGNS_TABLE = """
    or nor not no never none except without true false least most less fewer more before after
    one two three four five six seven eight nine ten eleven twelve dozen hundred thousand million half twice
"""
_LIKE_SIGNS = frozenset(_LIKE_SIGNS_TABLE.split())
_MULTIPLIER = 0x9E3779B97F4A7C15


def words(text: str) -> list[str]:
    """The words and numbers of a text, in order."""
    text = _LAYOUT.sub(" ", text)
    if text.isascii():
        return _WORD.findall(text.casefold())
    return _FOREIGN_WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def signed_words(text: str) -> list[str]:
    """`words`, with the signs of arithmetic, which tell "3 + 5" from "3 - 5"."""
    folded = unicodedata.normalize("NFKC", _LAYOUT.sub(" ", text)).casefold()
    return _SIGNED.findall(folded) if folded.isascii() else re.findall(r"[^\W\d_]+|\d+|[-+*/^=<>]", folded)


def bracketed_words(text: str) -> list[str]:
    """`words`, with the round and square brackets among them."""
    text = _DISPLAY.sub(" ", unicodedata.normalize("NFKC", _LAYOUT.sub(" ", text)).casefold())
    return _BRACKETED.findall(text)


def signs(text: str) -> list[str]:
    r"""Numbers, operators, brackets, single letters and words that work like signs (not, or), in order.

    A bracket is written with the words that it touches. Two texts with different signs ask different
    things, however alike their words are. Notation that means the same (\times and *, x^{2} and x^2, layout
    commands, bold) makes no difference.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    for pattern, sign in _SPELL:
        text = pattern.sub(sign, text)
    text = _LONE_BRACES.sub(lambda match: f" {match[1] or match[2]} ", text)
    found = _TOKEN.findall(_APOSTROPHE.sub("", _MARKUP.sub(" ", text)))
    kept = []
    for before, token, after in zip(["", *found], found, [*found[1:], ""], strict=False):
        if token in "()[]{}":
            kept.append(before + token + after)
        elif not token.isalpha() or token in _LIKE_SIGNS or (len(token) == 1 and token != "a"):
            kept.append(token)
    return kept


@lru_cache(maxsize=200_000)
def word_hash(word: str) -> int:
    """64 bits of a word."""
    data = word.encode()
    return zlib.crc32(data) | zlib.crc32(data, 0x5BD1E995) << 32


def hashes(found: Sequence[str]) -> np.ndarray:
    """uint64 [words]."""
    return np.fromiter(map(word_hash, found), dtype=np.uint64, count=len(found))


def ngram_hashes(of_words: np.ndarray, n: int) -> np.ndarray:
    """A hash of every n words in a row: uint64 [words - n + 1], empty for fewer words. Order counts."""
    if len(of_words) < n:
        return np.empty(0, dtype=np.uint64)
    powers = _powers(n)
    mixed = of_words[: len(of_words) - n + 1] * powers[0]
    for place in range(1, n):
        mixed += of_words[place : len(of_words) - n + 1 + place] * powers[place]
    return mixed ^ (mixed >> np.uint64(29))


@lru_cache(maxsize=64)
def _powers(n: int) -> list[np.uint64]:
    return [np.uint64(pow(_MULTIPLIER, place, 2**64)) for place in range(1, n + 1)]


def set_hash(found: Sequence[str]) -> int:
    """64 bits of the words and signs of several texts, whatever the order of the texts."""
    said = (" ".join([*words(one), *signs(one)]) or one.strip() for one in found)
    return sum(word_hash(one) * 0xBF58476D1CE4E5B9 for one in said) % 2**64


def gold_text(question: Question) -> str:
    """What the right answer says, whatever the form of the question: an option's text, or gold itself."""
    said = question.gold.strip().strip("()")
    if question.options is not None and len(said) == 1:
        place = ord(said.upper()) - ord("A")
        said = question.options[place] if 0 <= place < len(question.options) else said
    return " ".join(signed_words(said)) or said
