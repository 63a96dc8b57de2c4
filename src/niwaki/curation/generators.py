"""Questions made up by the project's own tasks: as many as asked for, seeded, with a right answer each.

In: the name of a task, or of several. Out: `Question`s of one side of a fixed split. Which side a question
is on follows from a hash of its text, whatever the seed and the difficulty: no question asked in training is
in the test set, by construction.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from niwaki.curation.tasks import arithmetic, comparison, dates, logic, strings, tables
from niwaki.curation.tasks.task import Draft, Maker
from niwaki.errors import DataError
from niwaki.verify.question import Question
from niwaki.verify.verdict import Type

Split = Literal["train", "test"]
TEST_SHARE = 0.25
HARDEST = 5
_TRIES_A_QUESTION = 200


@dataclass(frozen=True)
class Task:
    """A way to make up questions: of which domain they are, and the function that makes one up."""

    domain: str
    make: Maker


_BY_DOMAIN: dict[str, list[Maker]] = {
    "arithmetic": [
        arithmetic.addition,
        arithmetic.subtraction,
        arithmetic.multiplication,
        arithmetic.arithmetic_chain,
        arithmetic.remainder,
        arithmetic.linear_equation,
        arithmetic.fraction_sum,
        arithmetic.next_in_sequence,
    ],
    "comparison": [comparison.largest, comparison.by_rank, comparison.first_word, comparison.how_many_above],
    "dates": [dates.weekday_after, dates.clock, dates.days_between, dates.month_after],
    "logic": [logic.truth_value, logic.order, logic.classes, logic.liar],
    "strings": [
        strings.reverse,
        strings.middle,
        strings.count_letter,
        strings.length,
        strings.same_letters,
    ],
    "tables": [tables.look_up, tables.who_is, tables.age_difference, tables.count_rows],
}
TASKS: dict[str, Task] = {
    make.__name__: Task(domain, make) for domain, makers in _BY_DOMAIN.items() for make in makers
}
DOMAINS = tuple(_BY_DOMAIN)


def generate(
    tasks: str | Sequence[str] = DOMAINS,
    *,
    num_questions: int,
    split: Split,
    difficulty: int = 1,
    template: Literal["open", "mc"] = "open",
    seed: int = 0,
) -> Iterator[Question]:
    """`num_questions` different questions, the tasks in turn.

    Args:
        tasks: names of tasks (`TASKS`) or of domains (`DOMAINS`, which stand for all their tasks).
        num_questions: of all tasks together.
        split: "train" or "test". A quarter of all possible questions are test questions.
        difficulty: 1 to 5. Each task says what grows.
        template: "mc" gives every question up to four options at shuffled places; gold is a letter.
        seed: another seed draws other questions of the same side.

    Raises:
        DataError: an unknown name, a difficulty outside 1 to 5, or more questions than a task can make up.
    """
    names = task_names(tasks)
    if not 1 <= difficulty <= HARDEST:
        raise DataError(f"difficulty is {difficulty}.", f"Give a level from 1 to {HARDEST}.")
    streams = [_different(name, split, difficulty, seed) for name in names]
    for index in range(num_questions):
        name = names[index % len(names)]
        draft = next(streams[index % len(names)], None)
        if draft is None:
            raise DataError(
                f"task {name!r}: fewer than {index // len(names) + 1} different {split} questions were found "
                f"at difficulty {difficulty}.",
                "Ask for fewer, or for a higher difficulty.",
            )
        where = f"{name}-{split}-{difficulty}-{seed}-{index // len(names)}"
        yield _question(draft, name, difficulty, template, where, random.Random(f"options {where}"))


def task_names(tasks: str | Sequence[str]) -> list[str]:
    """The tasks that names of tasks and domains stand for, each once. Raises DataError for another name."""
    found: dict[str, None] = {}
    for name in [tasks] if isinstance(tasks, str) else tasks:
        if name not in TASKS and name not in _BY_DOMAIN:
            raise DataError(
                f"There is no task or domain {name!r}.",
                f"Domains: {', '.join(DOMAINS)}. Tasks: {', '.join(TASKS)}.",
            )
        found |= dict.fromkeys(
            [name] if name in TASKS else [one for one, task in TASKS.items() if task.domain == name]
        )
    return list(found)


def split_of(question: str) -> Split:
    """The side of the split that a question's text is on."""
    digest = hashlib.sha256(question.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") / 2**64 < TEST_SHARE else "train"


def _different(name: str, split: Split, difficulty: int, seed: int) -> Iterator[Draft]:
    rng, seen, misses = random.Random(f"{name} {split} {difficulty} {seed}"), set[str](), 0
    while misses < _TRIES_A_QUESTION:
        draft = TASKS[name].make(rng, difficulty)
        if draft.question in seen or split_of(draft.question) != split:
            misses += 1
            continue
        seen.add(draft.question)
        misses = 0
        yield draft


def _question(
    draft: Draft, name: str, difficulty: int, template: str, where: str, rng: random.Random
) -> Question:
    open_question = Question(
        where,
        draft.question,
        draft.gold,
        draft.type,
        domain=TASKS[name].domain,
        source=f"generated:{name}",
        meta={"task": name, "difficulty": difficulty}
        | ({"solution": draft.solution} if draft.solution else {}),
    )
    if template == "open":
        return open_question
    options = [draft.gold, *draft.wrong[:3]]
    rng.shuffle(options)
    gold = chr(ord("A") + options.index(draft.gold))
    return replace(open_question, template="mc", gold=gold, type=Type.MC, options=tuple(options))
