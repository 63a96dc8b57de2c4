"""A named source -> questions in our one record, streamed, with what could not be used set aside.

Three kinds of sources: rows of files or the hub through an adapter (adapters.py), our own generated tasks,
and the generators of reasoning-gym where it is installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from niwaki.curation.adapters import ADAPTERS, Adapter, by_columns
from niwaki.curation.fields import RowError
from niwaki.curation.generators import generate
from niwaki.curation.rows import Raw, fingerprint, read_rows
from niwaki.errors import DataError
from niwaki.verify.question import Question

MADE_UP = ("generated", "reasoning_gym")
OWN, COLUMNS = "questions", "columns"
NAMES = (OWN, COLUMNS, *MADE_UP, *ADAPTERS)
_ALL_WRONG = 100


@dataclass(frozen=True)
class Aside:
    """A row that gave no question: of which source, which row, why, and how it begins."""

    source: str
    where: str
    problem: str
    row: str


def read_source(
    name: str,
    *,
    adapter: str,
    path: str | None = None,
    config: str | None = None,
    split: str | None = None,
    domain: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    aside: Callable[[Aside], None] | None = None,
) -> Iterator[Question]:
    """The questions of the source `name`, whose rows have the form `adapter`.

    Args:
        name: what the source is called in ids, counts and blends.
        adapter: one of `NAMES` but those in `MADE_UP`.
        path: file, folder or hub name. Default: where the hub has the set.
        config: configuration of a hub data set.
        split: split of a hub data set.
        domain: overrides the adapter's.
        columns: for adapter "columns": which column is `question`, `gold` and (optional) `options`.
        limit: stop after so many rows.
        aside: called with every row that gives no question. None: such a row is an error.

    Raises:
        DataError: no such adapter or source, or the first hundred rows are all of another form.
    """
    form = _adapter(adapter, columns)
    if path is None and form.hub is None:
        raise DataError(
            f"source {name!r}: no path.", f"The form {adapter!r} has no home on the hub; give a path."
        )
    hub = form.hub if path is None else None
    rows = read_rows(
        path or (hub or ("",))[0],
        config=config or (hub[1] if hub else None),
        split=split or (hub[2] if hub else None),
    )
    wrong: list[Aside] = []
    for number, raw in enumerate(rows):
        if limit is not None and number >= limit:
            return
        try:
            yield _question(name, raw, number, form, domain)
        except (RowError, DataError) as error:
            message = error.message if isinstance(error, DataError) else str(error)
            shown = raw.text or json.dumps(raw.fields, ensure_ascii=False, default=str)[:300]
            one = Aside(name, raw.where, raw.problem or message, shown)
            if aside is None:
                raise DataError(
                    f"source {name!r}, {one.where}: {one.problem}.", "Mend or remove the row."
                ) from None
            aside(one)
            if number == len(wrong) < _ALL_WRONG:
                wrong.append(one)
                if len(wrong) == _ALL_WRONG:
                    raise DataError(
                        f"source {name!r}: the first {_ALL_WRONG} rows are not of the form {adapter!r} "
                        f"({one.where}: {one.problem}).",
                        f"Choose another adapter: {', '.join(NAMES)}.",
                    ) from None


def made_up(
    name: str,
    *,
    generator: str,
    tasks: Sequence[str],
    num_questions: int,
    split: str = "train",
    difficulty: int = 1,
    template: str = "open",
    seed: int = 0,
) -> Iterator[Question]:
    """`num_questions` questions of our own tasks ("generated") or of reasoning-gym's ("reasoning_gym").

    Questions of reasoning-gym are on our side of the split by a hash of their text, as our own are.

    Raises:
        DataError: an unknown generator or task, or reasoning-gym is not installed.
    """
    if generator == "generated":
        questions = generate(
            tasks,
            num_questions=num_questions,
            split=split,  # type: ignore[arg-type]
            difficulty=difficulty,
            template=template,  # type: ignore[arg-type]
            seed=seed,
        )
        for question in questions:
            yield replace(question, id=f"{name}-{question.id}", source=name)
        return
    from niwaki.curation.reasoning_gym import from_reasoning_gym

    yield from from_reasoning_gym(name, tasks, num_questions=num_questions, split=split, seed=seed)


def source_hash(adapter: str, path: str | None, **options: object) -> str:
    """A hash that changes when the questions of the source may."""
    if adapter in MADE_UP:
        return fingerprint("", adapter=adapter, **options)
    hub = ADAPTERS[adapter].hub if adapter in ADAPTERS else None
    return fingerprint(path or (hub or ("",))[0], adapter=adapter, **options)


def reasoning_gym_is_here() -> bool:
    """Whether reasoning-gym can be imported."""
    return find_spec("reasoning_gym") is not None


def _adapter(name: str, columns: Mapping[str, str] | None) -> Adapter:
    if name == OWN:
        return Adapter(OWN, dict, "", None)
    if name == COLUMNS:
        if columns is None or not {"question", "gold"} <= set(columns) <= {"question", "gold", "options"}:
            raise DataError(
                f"columns are {columns}.",
                "Give {question: ..., gold: ...}, and options: ... if there are any.",
            )
        return Adapter(COLUMNS, by_columns(columns), "gpr", None)
    if name not in ADAPTERS:
        raise DataError(f"There is no adapter {name!r}.", f"Adapters: {', '.join(NAMES)}.")
    return ADAPTERS[name]


def _question(name: str, raw: Raw, number: int, form: Adapter, domain: str | None) -> Question:
    if raw.problem is not None:
        raise RowError(raw.problem)
    if form.name == OWN:
        question = Question.from_row(raw.fields, where=raw.where)
        return replace(question, source=name, domain=domain or question.domain)
    fields: dict[str, Any] = dict(form.convert(raw.fields))
    meta = {"row": raw.where} | fields.pop("meta", {})
    return Question(
        id=f"{name}-{number + 1}",
        question=fields["question"].strip(),
        gold=fields["gold"].strip(),
        type=fields.get("type"),
        options=fields.get("options"),
        domain=domain or fields.get("domain") or form.domain,
        source=name,
        template="open" if fields.get("options") is None else "mc",
        meta=meta,
    )
