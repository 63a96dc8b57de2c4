"""Small tables: look up, compare, count, add. Difficulty: more rows."""

from __future__ import annotations

import itertools
import random

from niwaki.curation.tasks.task import Draft, near, number, words
from niwaki.curation.tasks.vocabulary import CITIES, NAMES

_Rows = list[tuple[str, int, str]]


def look_up(rng: random.Random, difficulty: int) -> Draft:
    """One cell of a table of `difficulty` + 1 people."""
    rows = _people(rng, difficulty + 1)
    name, age, city = rng.choice(rows)
    if rng.random() < 0.5:
        return number(
            f"{_table(rows)}\nHow old is {name}?", age, [*(row[1] for row in rows), age + 1, age - 1, age + 2]
        )
    return words(f"{_table(rows)}\nWhere does {name} live?", city, [*(row[2] for row in rows), *CITIES])


def who_is(rng: random.Random, difficulty: int) -> Draft:
    """The oldest or youngest of `difficulty` + 1 people."""
    rows = _people(rng, difficulty + 1)
    kind = rng.choice(["oldest", "youngest"])
    gold = (max if kind == "oldest" else min)(rows, key=lambda row: row[1])[0]
    worked = " < ".join(f"{row[1]} {row[0]}" for row in sorted(rows, key=lambda row: row[1]))
    return words(f"{_table(rows)}\nWho is the {kind}?", gold, [row[0] for row in rows], worked)


def age_difference(rng: random.Random, difficulty: int) -> Draft:
    """How much older one of `difficulty` + 1 people is than another."""
    rows = _people(rng, difficulty + 1)
    younger, older = sorted(rng.sample(rows, 2), key=lambda row: row[1])
    gold = older[1] - younger[1]
    asked = f"{_table(rows)}\nHow many years older is {older[0]} than {younger[0]}?"
    return number(asked, gold, near(rng, gold, older[1] + younger[1]))


def count_rows(rng: random.Random, difficulty: int) -> Draft:
    """How many of `difficulty` + 2 people live in a city."""
    rows = _people(rng, difficulty + 2, num_cities=2 + difficulty // 3)
    city = rng.choice(rows)[2]
    gold = sum(row[2] == city for row in rows)
    counts = itertools.accumulate(int(row[2] == city) for row in rows)
    worked = ", ".join(f"{row[2]} {count}" for row, count in zip(rows, counts, strict=True))
    asked = f"{_table(rows)}\nHow many people live in {city}?"
    return number(asked, gold, range(len(rows) + 1), worked)


def _people(rng: random.Random, count: int, *, num_cities: int = len(CITIES)) -> _Rows:
    names, ages = rng.sample(NAMES, count), rng.sample(range(11, 80), count)
    cities = rng.sample(CITIES, num_cities)
    return [(name, age, rng.choice(cities)) for name, age in zip(names, ages, strict=True)]


def _table(rows: _Rows) -> str:
    return "\n".join(["name | age | city", *(" | ".join(map(str, row)) for row in rows)])
