"""Questions of reasoning-gym's generators, where it is installed: github.com/open-thought/reasoning-gym.

Its answers come in many forms; the verifiability filters keep those that our graders read. Tasks with more
than one right answer (puzzles) have one gold answer here, and others are marked wrong; those that give none,
and only check what they are given, cannot be used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from niwaki.curation.generators import split_of
from niwaki.errors import DataError
from niwaki.verify.question import Question

_MATHS = frozenset({"algebra", "arithmetic", "geometry", "probability"})
_DRAWS_A_QUESTION = 20


def from_reasoning_gym(
    name: str, tasks: Sequence[str], *, num_questions: int, split: str, seed: int
) -> Iterator[Question]:
    """`num_questions` different questions on one side of the split, the tasks in turn.

    Raises:
        DataError: reasoning-gym is not installed, has no such task, or gives too few different questions.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise DataError(
            f"source {name!r}: reasoning-gym is not installed.",
            "pip install reasoning-gym, or use the adapter 'generated'.",
        ) from None
    if unknown := [task for task in tasks if task not in DATASETS]:
        raise DataError(
            f"reasoning-gym has no task {unknown[0]!r}.", f"It has: {', '.join(sorted(DATASETS))}."
        )
    if not tasks:
        raise DataError(
            f"source {name!r}: no tasks.", "Name tasks of reasoning-gym, such as [basic_arithmetic]."
        )
    for place, task in enumerate(tasks):
        wanted = num_questions // len(tasks) + (place < num_questions % len(tasks))
        try:
            drawn = reasoning_gym.create_dataset(task, seed=seed, size=wanted * _DRAWS_A_QUESTION + 20)
        except AssertionError as error:
            raise DataError(
                f"reasoning-gym's {task!r} cannot be made with its defaults: {error}.", "Leave it out."
            ) from None
        group = DATASETS[task][0].__module__.split(".")[-2]
        seen: set[str] = set()
        num_without_gold = 0
        for number, entry in enumerate(drawn):
            asked = str(entry["question"]).strip()
            if len(seen) == wanted:
                break
            if asked in seen or split_of(asked) != split:
                continue
            if entry.get("answer") is None:
                num_without_gold += 1
                continue
            seen.add(asked)
            yield Question(
                id=f"{name}-{task}-{split}-{seed}-{number}",
                question=asked,
                gold=str(entry["answer"]),
                domain="math" if group in _MATHS else "gpr",
                source=name,
                meta={"task": task, "group": group},
            )
        if num_without_gold and not seen:
            raise DataError(f"reasoning-gym's {task!r} gives no answers to compare with.", "Leave it out.")
        if len(seen) < wanted:
            raise DataError(
                f"reasoning-gym's {task!r}: {len(seen)} of {wanted} different {split} questions.",
                "Ask for fewer.",
            )
