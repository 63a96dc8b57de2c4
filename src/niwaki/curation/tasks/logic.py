"""Truth values, orders and classes. Difficulty: more statements."""

from __future__ import annotations

import itertools
import random
import re

from niwaki.curation.tasks.task import Draft, words
from niwaki.curation.tasks.vocabulary import NAMES

_TRUTH = "(?:true|false)"
_INNERMOST = re.compile(
    rf"\((?:not {_TRUTH}|{_TRUTH} (?:and|or) {_TRUTH})\)|^(?:not {_TRUTH}|{_TRUTH} (?:and|or) {_TRUTH})$"
)
_RELATIONS = [
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
]
_MADE_UP = [
    "blip",
    "dax",
    "fep",
    "gorp",
    "kiv",
    "lom",
    "mip",
    "nup",
    "plok",
    "quab",
    "rill",
    "sarp",
    "tov",
    "wug",
]


def truth_value(rng: random.Random, difficulty: int) -> Draft:
    """A formula of `difficulty` + 2 connectives over true and false."""
    formula, value = _formula(rng, difficulty + 2)
    asked = f"Is this true or false: {formula}?"
    return words(asked, _spoken(value), [_spoken(not value)], _reductions(formula))


def order(rng: random.Random, difficulty: int) -> Draft:
    """`difficulty` + 2 people; each statement compares neighbours, and their order is shuffled."""
    people = rng.sample(NAMES, difficulty + 2)
    relation, top, bottom = rng.choice(_RELATIONS)
    said = [f"{a} is {relation} than {b}." for a, b in itertools.pairwise(people)]
    rng.shuffle(said)
    asked, gold = rng.choice([(top, people[0]), (bottom, people[-1])])
    return words(f"{' '.join(said)} Who is the {asked}?", gold, people, " > ".join(people))


def classes(rng: random.Random, difficulty: int) -> Draft:
    """A chain of `difficulty` + 1 "All a are b", asked forward (yes) or backward (no)."""
    kinds = rng.sample(_MADE_UP, difficulty + 2)
    said = [f"All {a}s are {b}s." for a, b in itertools.pairwise(kinds)]
    rng.shuffle(said)
    first, last = sorted(rng.sample(range(len(kinds)), 2))
    forward = rng.random() < 0.5
    a, b = (kinds[first], kinds[last]) if forward else (kinds[last], kinds[first])
    asked = f"{' '.join(said)} Does it follow that all {a}s are {b}s? Answer yes or no."
    return words(asked, "yes" if forward else "no", ["no" if forward else "yes"])


def liar(rng: random.Random, difficulty: int) -> Draft:
    """Who lies: exactly one of `difficulty` + 2 people says something false about a sum."""
    people = rng.sample(NAMES, difficulty + 2)
    wrong, said = rng.choice(people), []
    for person in people:
        a, b = rng.randint(1, 9 * difficulty), rng.randint(1, 9 * difficulty)
        shown = a + b + (rng.choice([-2, -1, 1, 2]) if person == wrong else 0)
        said.append(f"{person} says {a} + {b} is {shown}.")
    return words(f"{' '.join(said)} Who is wrong?", wrong, people)


def _formula(rng: random.Random, connectives: int) -> tuple[str, bool]:
    if connectives == 0:
        value = rng.random() < 0.5
        return _spoken(value), value
    if rng.random() < 0.25:
        inner, value = _formula(rng, connectives - 1)
        return f"not {_bracketed(inner)}", not value
    split = rng.randint(0, connectives - 1)
    left, a = _formula(rng, split)
    right, b = _formula(rng, connectives - 1 - split)
    word = rng.choice(["and", "or"])
    return f"{_bracketed(left)} {word} {_bracketed(right)}", (a and b) if word == "and" else (a or b)


def _reductions(formula: str) -> str:
    """Bracket by bracket from the inside, one connective a step."""
    steps: list[str] = []

    def reduce(match: re.Match[str]) -> str:
        inner = match[0].strip("()")
        terms = inner.split()
        if len(terms) == 1:
            return inner
        if terms[0] == "not":
            value = terms[1] == "false"
        else:
            either, both = "true" in terms[::2], terms[0] == terms[2] == "true"
            value = both if terms[1] == "and" else either
        steps.append(f"{inner} = {_spoken(value)}")
        return _spoken(value)

    while " " in formula:
        formula = _INNERMOST.sub(reduce, formula, count=1)
    return ", ".join(steps)


def _bracketed(formula: str) -> str:
    return f"({formula})" if " " in formula else formula


def _spoken(value: bool) -> str:
    return "true" if value else "false"
