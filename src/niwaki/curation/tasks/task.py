"""What a task hands over for each question that it makes up.

Some tasks also work the answer out, in steps that are each as easy as they can be: a small model that is
shown such solutions first can be trained to reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from niwaki.verify.verdict import Type


@dataclass(frozen=True)
class Draft:
    """One made-up question with its right answer and wrong ones that are near it, for multiple choice."""

    question: str
    gold: str
    wrong: tuple[str, ...]
    type: Type
    solution: str = ""


Maker = Callable[[random.Random, int], Draft]  # a generator and a difficulty from 1 to 5


def number(question: str, gold: int, wrong: Iterable[int], solution: str = "") -> Draft:
    """A question whose answer is a whole number."""
    return Draft(question, str(gold), others(str(gold), map(str, wrong)), Type.NUMBER, solution)


def words(question: str, gold: str, wrong: Iterable[str], solution: str = "") -> Draft:
    """A question whose answer is a word or a short text."""
    return Draft(question, gold, others(gold, wrong), Type.TEXT, solution)


def others(gold: str, wrong: Iterable[str]) -> tuple[str, ...]:
    """The wrong answers, each once, without the right one."""
    return tuple(dict.fromkeys(one for one in wrong if one != gold))


def near(rng: random.Random, value: int, *likely: int) -> list[int]:
    """Wrong numbers: the likely slips first, then neighbours."""
    return [*likely, *rng.sample([value + step for step in (-10, -3, -2, -1, 1, 2, 3, 10)], 6)]


def term(rng: random.Random, difficulty: int) -> int:
    """A number up to 20 at difficulty 1, of `difficulty` digits beyond."""
    return rng.randint(1, 20) if difficulty == 1 else of_digits(rng, difficulty)


def of_digits(rng: random.Random, num_digits: int) -> int:
    """A number of exactly so many digits; of one digit, 1 to 9."""
    return rng.randint(10 ** (num_digits - 1), 10**num_digits - 1)
