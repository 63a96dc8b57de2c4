"""Rational values of formulas, with a limit on the size of every number and of all of them together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from fractions import Fraction

from niwaki.verify.tree import Tree
from niwaki.verify.verdict import Reason, UnreadableError

deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)  # on the monotonic clock
_MOST_BITS = 1 << 16  # of one numerator or denominator
_MOST_WORK_BITS = 1 << 21  # of all results of one evaluation
_LARGEST_FACTORIAL = 5_000


class InexactError(Exception):
    """This value is not rational."""


class UndefinedError(Exception):
    """A division by zero, 0^0, or a function outside its domain."""


def in_time() -> None:
    """Raise `UnreadableError` with `timeout` when the verdict's time is over."""
    if time.monotonic() > deadline.get():
        raise UnreadableError(Reason.TIMEOUT)


class Exact:
    """Values at one point: a value for every symbol."""

    def __init__(self, point: dict[str, Fraction]) -> None:
        self.point = point
        self.work_bits = 0

    def value(self, tree: Tree) -> Fraction:
        """The value of `tree`; InexactError, UndefinedError, or UnreadableError when it is too large."""
        in_time()
        result = self._value(tree)
        bits = result.numerator.bit_length() + result.denominator.bit_length()
        self.work_bits += bits
        if bits > 2 * _MOST_BITS or self.work_bits > _MOST_WORK_BITS:
            raise UnreadableError(Reason.TOO_LARGE)
        return result

    def _value(self, tree: Tree) -> Fraction:
        kind = tree[0]
        if kind == "num":
            return tree[1]
        if kind == "sym":
            return self.point[tree[1]]
        if kind == "neg":
            return -self.value(tree[1])
        if kind in {"sum", "prod"}:
            result = self.value(tree[1][0])
            for child in tree[1][1:]:
                result = result + self.value(child) if kind == "sum" else result * self.value(child)
                if result.numerator.bit_length() + result.denominator.bit_length() > 2 * _MOST_BITS:
                    raise UnreadableError(Reason.TOO_LARGE)
            return result
        if kind == "div":
            above, below = self.value(tree[1]), self.value(tree[2])
            if below == 0:
                raise UndefinedError
            return above / below
        if kind == "pow":
            return _power(self.value(tree[1]), self.value(tree[2]))
        if kind == "root":
            return _root(self.value(tree[1]), self.value(tree[2]))
        if kind == "fn":
            return self._function(tree[1], [self.value(child) for child in tree[2]])
        raise InexactError

    def _function(self, name: str, arguments: list[Fraction]) -> Fraction:
        first = arguments[0]
        if name in ON_RATIONALS:
            return ON_RATIONALS[name](*arguments)
        if name in {"ln", "log", "lg"} and first == 1:
            return Fraction(0)
        if name in {"sin", "tan", "arcsin", "arctan", "sinh", "tanh"} and first == 0:
            return Fraction(0)
        if name in {"cos", "exp", "cosh", "sec"} and first == 0:
            return Fraction(1)
        raise InexactError


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent <= 0:
        raise UndefinedError
    if base in (0, 1) or exponent == 0:
        return base if exponent else Fraction(1)
    if exponent.denominator != 1:
        if base < 0:
            raise InexactError
        return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > _MOST_BITS and base != -1:
        raise UnreadableError(Reason.TOO_LARGE)
    return base ** (exponent.numerator if base != -1 else exponent.numerator % 2)


def _root(base: Fraction, degree: Fraction) -> Fraction:
    if degree.denominator != 1 or not 2 <= degree <= 1_000:
        raise InexactError if degree != 0 else UndefinedError
    if base < 0:
        if degree % 2 == 0:
            raise InexactError
        return -_root(-base, degree)
    above, below = _whole_root(base.numerator, int(degree)), _whole_root(base.denominator, int(degree))
    if above is None or below is None:
        raise InexactError
    return Fraction(above, below)


def _whole_root(number: int, degree: int) -> int | None:
    if number.bit_length() > 4_096:
        raise InexactError
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low if low**degree == number else None


def _factorial(number: Fraction) -> Fraction:
    if number.denominator != 1 or number < 0:
        raise UndefinedError
    if number > _LARGEST_FACTORIAL:
        raise UnreadableError(Reason.TOO_LARGE)
    return Fraction(math.factorial(number.numerator))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        raise UndefinedError
    if n > _LARGEST_FACTORIAL:
        raise UnreadableError(Reason.TOO_LARGE)
    return Fraction(math.comb(n.numerator, k.numerator))


ON_RATIONALS: dict[str, Callable[..., Fraction]] = {
    "abs": abs,
    "floor": lambda x: Fraction(math.floor(x)),
    "ceil": lambda x: Fraction(math.ceil(x)),
    "factorial": _factorial,
    "binomial": _binomial,
}
