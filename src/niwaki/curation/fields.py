"""What adapters take from a raw row, and the one error that sets a row aside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from niwaki.verify.extract import box_of
from niwaki.verify.verdict import UnreadableError

_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[).:]\s+(\S.*)$")
_OPTIONS_WORD = re.compile(r"\n\s*(?:options|choices|answer choices)\s*:?\s*\Z", re.IGNORECASE)
_LABELLED = re.compile(r"\s*\(?([A-Z])[).:]\s*(.*)\Z", re.DOTALL)


class RowError(Exception):
    """A row that an adapter cannot use; the message says which field is wrong."""


def text(row: Mapping[str, Any], *names: str) -> str:
    """The first of the named fields that is there, as text. Numbers are written out, 51.0 as 51."""
    for name in names:
        value = row
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None  # type: ignore[assignment]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise RowError(f"field {name!r} is {type(value).__name__}, expected text")
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if null := [name for name in names if name in row]:
        raise RowError(f"field {null[0]!r} is null, expected text")
    found = ", ".join(map(str, row)) or "none"
    raise RowError(f"no field {' or '.join(map(repr, names))} (fields: {found})")


def texts(row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """The first of the named fields that is there, as a list of texts without the labels in front of them."""
    for name in names:
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, Mapping) and "text" in value:  # {"label": [...], "text": [...]}
            value = value["text"]
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise RowError(f"field {name!r} is {type(value).__name__}, expected a list of texts")
        return unlabelled([text({name: one}, name) for one in value])
    raise RowError(f"no field {' or '.join(map(repr, names))} (fields: {', '.join(map(str, row)) or 'none'})")


def letter(row: Mapping[str, Any], num_options: int, *names: str) -> str:
    """A field that names one of the options, as a letter: a letter, or an index counted from 0."""
    said = text(row, *names).strip()
    if said.isdecimal() and int(said) < num_options:
        return chr(ord("A") + int(said))
    if re.fullmatch(r"\(?[A-Za-z]\)?", said):
        return said.strip("()").upper()
    raise RowError(f"field {names[0]!r} is {said:.40}, expected the letter or index of an option")


def boxed(solution: str) -> str:
    """What stands in the last box of a worked solution."""
    try:
        inside = box_of(solution)
    except UnreadableError:
        inside = None
    if inside is None or not inside.strip():
        raise RowError("the solution has no boxed answer")
    return inside.strip()


def unlabelled(options: Sequence[str]) -> tuple[str, ...]:
    """Options without labels, where all have them, in order: "A) Paris" is "Paris"."""
    found = [_LABELLED.match(option) for option in options]
    labels = [chr(ord("A") + index) for index in range(len(options))]
    if all(match and match[1] == label for match, label in zip(found, labels, strict=True)):
        return tuple(match[2].strip() for match in found if match)
    return tuple(option.strip() for option in options)


def split_options(question: str) -> tuple[str, tuple[str, ...] | None]:
    """A question and the options that stand in lines of their own at its end ("(A) Paris"), if any do."""
    lines = question.rstrip().split("\n")
    start = len(lines)
    while start > 0 and (_OPTION_LINE.match(lines[start - 1]) or not lines[start - 1].strip()):
        start -= 1
    found = [match for line in lines[start:] if (match := _OPTION_LINE.match(line))]
    labels = [match[1] for match in found]
    if len(found) < 2 or labels != [chr(ord("A") + index) for index in range(len(found))]:
        return question, None
    stem = _OPTIONS_WORD.sub("", "\n" + "\n".join(lines[:start]).rstrip()).strip()
    return (stem, tuple(match[2].strip() for match in found)) if stem else (question, None)
