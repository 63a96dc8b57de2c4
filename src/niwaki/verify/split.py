"""Cutting a text at separators that stand outside every bracket."""

from __future__ import annotations

import re

_BRACKET = re.compile(r"\\[{}]|\\[lr]angle(?![A-Za-z])|[(){}\[\]]")
_OPENING = frozenset({"\\{", "\\langle", "(", "{", "["})
_CLOSERS = {"\\{": {"\\}"}, "\\langle": {"\\rangle"}, "(": {")", "]"}, "{": {"}"}, "[": {"]", ")"}}


def outside(text: str, pattern: str) -> list[tuple[int, int, str]]:
    """(start, end, matched text) of every match of `pattern` outside brackets."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        return []
    inside = _inside(text)
    return [(match.start(), match.end(), match[0]) for match in matches if not inside[match.start()]]


def split_outside(text: str, pattern: str) -> list[str]:
    """`text` cut at every match of `pattern` outside brackets."""
    parts, start = [], 0
    for begin, end, _ in outside(text, pattern):
        parts.append(text[start:begin])
        start = end
    return [*parts, text[start:]]


def closed_pair(text: str) -> tuple[str, str] | None:
    """The brackets that enclose all of `text`, if one pair does."""
    first = _BRACKET.match(text)
    if first is None or first[0] not in _OPENING:
        return None
    stack: list[str] = []
    for match in _BRACKET.finditer(text):
        if match[0] in _OPENING:
            stack.append(match[0])
        elif not stack or match[0] not in _CLOSERS[stack.pop()]:
            return None
        if not stack:
            return (first[0], match[0]) if match.end() == len(text) else None
    return None


def _inside(text: str) -> list[bool]:
    inside, depth, position = [False] * (len(text) + 1), 0, 0
    for match in _BRACKET.finditer(text):
        inside[position : match.start()] = [depth > 0] * (match.start() - position)
        opening = match[0] in _OPENING
        depth = depth + 1 if opening else max(0, depth - 1)
        inside[match.start() : match.end()] = [True] * (match.end() - match.start())
        position = match.end()
    inside[position:] = [depth > 0] * (len(inside) - position)
    return inside
