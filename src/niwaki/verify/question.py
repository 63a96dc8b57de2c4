"""The one record of a question with a checkable answer, and its file: JSON lines, one question a row.

Curation writes it, training and evaluation read it, `Question.check` grades an answer to it. A row is
`{"id", "question", "gold", "type", "options", "domain", "source", "template", "meta"}`; the first three are
required. What a field does not hold is an error that names the file, the row and the field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niwaki.errors import DataError
from niwaki.verify.check import check
from niwaki.verify.verdict import Type, Verdict


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answer.

    Args:
        id: unique in its file, the same in every run.
        question: what is asked, without options and without instructions on how to answer.
        gold: the right answer: a label or the text of an option, a number, a formula, a short text.
        type: the grader of gold; None: inferred from gold and options (`verify.check.infer_type`).
        options: the texts of the options, labelled A, B, C, ... in this order; None: an open question.
        domain: "math", "gpr" (general-purpose reasoning), or any word to group results by.
        source: the set that it comes from.
        template: the form in which it is asked, "mc" or "open".
        meta: anything else that JSON can hold.

    Raises:
        DataError: a field holds something else than these, or `id` or `question` is empty.
    """

    id: str
    question: str
    gold: str
    type: Type | None = None
    options: tuple[str, ...] | None = None
    domain: str = ""
    source: str = ""
    template: str = "open"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "question", "gold", "domain", "source", "template"):
            if not isinstance(value := getattr(self, name), str):
                raise _wrong(name, value, "text")
        for name in ("id", "question", "template"):
            if not getattr(self, name).strip():
                raise _wrong(name, getattr(self, name), "text that is not empty")
        if self.type is not None:
            if self.type not in set(Type):
                raise _wrong("type", self.type, f"one of {', '.join(Type)}, or nothing")
            object.__setattr__(self, "type", Type(self.type))
        if self.options is not None:
            listed = isinstance(self.options, list | tuple) and len(self.options) > 0
            if not listed or not all(isinstance(option, str) for option in self.options):
                raise _wrong("options", self.options, "a list of texts, or nothing")
            object.__setattr__(self, "options", tuple(self.options))
        if not isinstance(self.meta, Mapping):
            raise _wrong("meta", self.meta, "an object")

    def check(self, answer: str, *, tolerance: float = 0.0, limit_s: float = 1.0) -> Verdict:
        """Grade `answer`, all that a model wrote or its final answer alone: see `verify.check.check`."""
        return check(
            answer, self.gold, type=self.type, options=self.options, tolerance=tolerance, limit_s=limit_s
        )

    def as_row(self) -> dict[str, Any]:
        """The question as a row of its file; `from_row` gives the same question back."""
        return {
            "id": self.id,
            "question": self.question,
            "gold": self.gold,
            "type": None if self.type is None else self.type.value,
            "options": None if self.options is None else list(self.options),
            "domain": self.domain,
            "source": self.source,
            "template": self.template,
            "meta": dict(self.meta),
        }

    @classmethod
    def from_row(cls, row: object, *, where: str) -> Question:
        """The question in `row`; errors call the row `where`. Without a template: mc if there are options.

        Raises:
            DataError: no object, a required field is missing, a field is unknown or holds something else.
        """
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: holds {_kind(row)}; an object was expected.", _REMEDY)
        if missing := [name for name in ("id", "question", "gold") if name not in row]:
            found = ", ".join(map(str, row)) or "none"
            raise DataError(f"{where}: has no field {missing[0]!r} (fields: {found}).", _REMEDY)
        if unknown := [name for name in row if name not in _FIELDS]:
            raise DataError(f"{where}: has an unknown field {unknown[0]!r}.", f"Put it in 'meta'. {_REMEDY}")
        fields = {name: value for name, value in row.items() if value is not None or name in _NULLABLE}
        fields.setdefault("template", "open" if fields.get("options") is None else "mc")
        try:
            return cls(**fields)
        except TypeError as error:  # a required field that is null
            raise DataError(f"{where}: {error}.", _REMEDY) from None
        except DataError as error:
            raise DataError(f"{where}: {error.message}", error.remedy) from None


_FIELDS = ("id", "question", "gold", "type", "options", "domain", "source", "template", "meta")
_NULLABLE = ("id", "question", "gold", "type", "options")
_REMEDY = "docs/verify.md describes the row of a question."


def read_questions(path: Path | str) -> Iterator[Question]:
    """The questions of a JSON lines file, one at a time.

    Raises:
        DataError: there is no such file, or a row (counted from 1) is no question.
    """
    for where, row in _rows(Path(path)):
        yield Question.from_row(row, where=where)


def write_questions(path: Path | str, questions: Iterable[Question]) -> int:
    """Write `questions` to a JSON lines file, which appears whole or not at all; return how many there were.

    Raises:
        DataError: a question's `meta` holds what JSON cannot.
    """
    path, num_rows = Path(path), 0
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for question in questions:
            file.write(_line(question))
            num_rows += 1
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return num_rows


def _line(question: Question) -> str:
    try:
        return json.dumps(question.as_row(), ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(
            f"question {question.id!r}: its meta cannot be written as JSON ({error}).",
            "Keep text, finite numbers, lists and objects in it.",
        ) from None


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    try:
        file = path.open(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}).", "Give a JSON lines file of questions."
        ) from None
    with file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, row {number}", json.loads(line)
        except UnicodeDecodeError:
            raise DataError(f"{path}, near row {number + 1}: is not UTF-8.", _REMEDY) from None
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: is not JSON ({error.msg}).", _REMEDY) from None


def _wrong(name: str, value: object, wanted: str) -> DataError:
    return DataError(f"{name} is {value!r:.60} ({_kind(value)}); {wanted} was expected.", _REMEDY)


def _kind(value: object) -> str:
    names = {
        "str": "text",
        "NoneType": "nothing",
        "dict": "an object",
        "list": "a list",
        "bool": "a truth value",
    }
    return names.get(type(value).__name__, f"a value of type {type(value).__name__}")
