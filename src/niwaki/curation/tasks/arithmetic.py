"""Arithmetic and a little algebra. Difficulty: more digits, more terms."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from niwaki.curation.tasks.task import Draft, near, number, of_digits, others, term
from niwaki.verify.verdict import Type


def addition(rng: random.Random, difficulty: int) -> Draft:
    """Two terms up to 20, or of `difficulty` digits."""
    a, b = term(rng, difficulty), term(rng, difficulty)
    return number(f"What is {a} + {b}?", a + b, near(rng, a + b, abs(a - b)), _column_sum(a, b))


def subtraction(rng: random.Random, difficulty: int) -> Draft:
    """Two terms up to 20, or of `difficulty` digits; the result is not negative."""
    b, a = sorted([term(rng, difficulty), term(rng, difficulty)])
    return number(f"What is {a} - {b}?", a - b, near(rng, a - b, a + b))


def multiplication(rng: random.Random, difficulty: int) -> Draft:
    """Up to 20 times 20, then 2x1 to 3x3 digits."""
    a = term(rng, (difficulty + 2) // 2)
    b = term(rng, (difficulty + 1) // 2)
    return number(f"What is {a} * {b}?", a * b, near(rng, a * b, a * (b + 1), a + b))


def arithmetic_chain(rng: random.Random, difficulty: int) -> Draft:
    """`difficulty` + 2 one-digit terms with +, - and *, the product first."""
    terms = [str(rng.randint(1, 9))]
    for _ in range(difficulty + 1):
        terms += [rng.choice("+-*"), str(rng.randint(1, 9))]
    value, left_to_right = _chain(terms), _left_to_right(terms)
    wrong = near(rng, value, left_to_right, -value)
    return number(f"What is {' '.join(terms)}?", value, wrong, _chain_steps(terms))


def remainder(rng: random.Random, difficulty: int) -> Draft:
    """The dividend has `difficulty` + 1 digits."""
    a, b = of_digits(rng, difficulty + 1), rng.randint(3, 5 + 4 * difficulty)
    wrong = [a // b, *(step for step in range(b) if step != a % b)]
    below = a // b * b
    worked = f"{b} * {a // b} = {below}, {a} - {below} = {a % b}"
    return number(f"What is the remainder when {a} is divided by {b}?", a % b, wrong, worked)


def linear_equation(rng: random.Random, difficulty: int) -> Draft:
    """a x + b = c with a whole solution, negative ones from difficulty 3."""
    most = 5 * difficulty + 4
    a, x = rng.randint(2, most), rng.randint(1 if difficulty < 3 else -most, most)
    b = rng.randint(1, 2 * most)
    return number(f"If {a}x + {b} = {a * x + b}, what is x?", x, near(rng, x, a * x, -x))


def fraction_sum(rng: random.Random, difficulty: int) -> Draft:
    """Two fractions with denominators up to 3 + 3 * `difficulty`."""
    below = [rng.randint(2, 3 + 3 * difficulty) for _ in range(2)]
    above = [rng.randint(1, one - 1) for one in below]
    first, second = (Fraction(a, b) for a, b in zip(above, below, strict=True))
    gold = first + second
    wrong = [
        Fraction(sum(above), sum(below)),
        Fraction(sum(above), max(below)),
        gold + Fraction(1, math.lcm(*below)),
        gold - Fraction(1, math.lcm(*below)),
        first * second,
    ]
    asked = " + ".join(f"{a}/{b}" for a, b in zip(above, below, strict=True))
    return Draft(f"What is {asked}?", str(gold), others(str(gold), map(str, wrong)), Type.NUMBER)


def next_in_sequence(rng: random.Random, difficulty: int) -> Draft:
    """A constant step; from difficulty 3, a step that grows."""
    start, step = rng.randint(1, 20 * difficulty), rng.randint(2, 5 + 5 * difficulty)
    growth = rng.randint(1, difficulty) if difficulty >= 3 else 0
    values = [start]
    for index in range(5):
        values.append(values[-1] + step + growth * index)
    shown, gold = values[:5], values[5]
    return number(
        f"What comes next: {', '.join(map(str, shown))}?", gold, near(rng, gold, 2 * shown[-1] - shown[-2])
    )


def _chain(terms: list[str]) -> int:
    total, sign, product = 0, 1, int(terms[0])
    for operator, factor in zip(terms[1::2], terms[2::2], strict=True):
        if operator == "*":
            product *= int(factor)
        else:
            total, sign, product = total + sign * product, 1 if operator == "+" else -1, int(factor)
    return total + sign * product


def _chain_steps(terms: list[str]) -> str:
    """One operation a step, the products first."""
    terms, steps = list(terms), []
    while len(terms) > 1:
        at = terms.index("*") if "*" in terms else 1
        value = _left_to_right(terms[at - 1 : at + 2])
        steps.append(f"{' '.join(terms[at - 1 : at + 2])} = {value}")
        terms[at - 1 : at + 2] = [str(value)]
    return ", ".join(steps)


def _column_sum(a: int, b: int) -> str:
    """Digit by digit from the right, with what is carried."""
    steps, carried = [], 0
    while a or b:
        total = a % 10 + b % 10 + carried
        steps.append(f"{a % 10} + {b % 10} + {carried} = {total}")
        a, b, carried = a // 10, b // 10, total // 10
    return ", ".join(steps)


def _left_to_right(terms: list[str]) -> int:
    value = int(terms[0])
    for operator, factor in zip(terms[1::2], terms[2::2], strict=True):
        value = {"+": value + int(factor), "-": value - int(factor), "*": value * int(factor)}[operator]
    return value
