"""Which is the larger, which comes second, how far apart. Difficulty: more and longer numbers."""

from __future__ import annotations

import random

from niwaki.curation.tasks.task import Draft, number, term, words
from niwaki.curation.tasks.vocabulary import WORDS


def largest(rng: random.Random, difficulty: int) -> Draft:
    """`difficulty` + 1 numbers."""
    values = _different(rng, difficulty + 1, (difficulty + 2) // 2)
    kind = rng.choice(["largest", "smallest"])
    gold = max(values) if kind == "largest" else min(values)
    asked = f"Which number is the {kind}: {_listed(values)}?"
    return number(asked, gold, _others(rng, values, gold), _sorted(values))


def by_rank(rng: random.Random, difficulty: int) -> Draft:
    """`difficulty` + 2 numbers; the second or, from difficulty 3, the third from one end."""
    values = _different(rng, difficulty + 2, (difficulty + 2) // 2)
    place = rng.randint(1, 1 if difficulty < 3 else 2)
    kind = rng.choice(["largest", "smallest"])
    gold = sorted(values, reverse=kind == "largest")[place]
    name = ["second", "third"][place - 1]
    asked = f"Which number is the {name} {kind}: {_listed(values)}?"
    return number(asked, gold, _others(rng, values, gold), _sorted(values))


def first_word(rng: random.Random, difficulty: int) -> Draft:
    """`difficulty` + 1 words in the order of the alphabet."""
    chosen = rng.sample(WORDS, difficulty + 1)
    kind = rng.choice(["first", "last"])
    gold = min(chosen) if kind == "first" else max(chosen)
    return words(f"Which word comes {kind} in the alphabet: {_listed(chosen)}?", gold, chosen)


def how_many_above(rng: random.Random, difficulty: int) -> Draft:
    """`difficulty` + 3 numbers and a threshold that is none of them."""
    values = _different(rng, difficulty + 3, (difficulty + 3) // 2)
    edge = rng.choice(values[1:]) + rng.choice([-1, 1])
    while edge in values:
        edge += 1
    gold = sum(value > edge for value in values)
    wrong = [count for count in range(len(values) + 1) if count != gold]
    rng.shuffle(wrong)
    worked = ", ".join(f"{value} {'yes' if value > edge else 'no'}" for value in values)
    asked = f"How many of these numbers are greater than {edge}: {_listed(values)}?"
    return number(asked, gold, wrong, worked)


def _different(rng: random.Random, count: int, num_digits: int) -> list[int]:
    values: dict[int, None] = {}
    while len(values) < count:
        values[term(rng, num_digits)] = None
    return list(values)


def _others(rng: random.Random, values: list[int], gold: int) -> list[int]:
    return [*(value for value in values if value != gold), *(gold + step for step in (1, -1, 2))]


def _sorted(values: list[int]) -> str:
    return " < ".join(map(str, sorted(values)))


def _listed(values: list[int] | list[str]) -> str:
    return ", ".join(map(str, values))
