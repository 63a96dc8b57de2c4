"""Do two formulas have the same value? Exactly where that can be, else to 400 digits; always in bounded time.

Rational arithmetic decides whatever has no irrational part. Symbols are given random rational values (a
polynomial identity that holds at a random point holds, J. T. Schwartz 1980); the points are drawn from a
hash of both formulas, so a verdict repeats and nobody can aim at them. Irrational values are compared at 60
and at 400 digits: two equal numbers differ by rounding, which shrinks with more digits, and two different
ones do not.
"""

from __future__ import annotations

import hashlib
import random
import threading
from fractions import Fraction
from typing import Any

from niwaki.verify.exact import ON_RATIONALS, Exact, InexactError, UndefinedError, in_time
from niwaki.verify.tree import Tree, symbols
from niwaki.verify.verdict import Reason, UnreadableError

_FEW_DIGITS, _MANY_DIGITS = 60, 400
_LARGEST_EXPONENT = 1_000_000
_MIN_CALCULATOR_DIGITS = 12
_FLOAT_DIGITS = 17
_contexts = threading.local()  # mpmath's precision is global state: one context a thread


def equal(a: Tree, b: Tree) -> bool:
    """Whether two formulas have the same value, for every value of their symbols.

    Raises:
        UnreadableError: a value is too large, or defined nowhere.
    """
    names = sorted(symbols(a) | symbols(b))
    counting = _needs_whole_numbers(a) or _needs_whole_numbers(b)
    seed = int.from_bytes(hashlib.sha256(repr((a, b)).encode()).digest()[:8], "big")
    generator = random.Random(seed)
    defined = 0
    for attempt in range(12 if names else 1):
        point = {name: _draw(generator, counting, negative=attempt % 3 == 2) for name in names}
        try:
            if not _equal_at(a, b, point):
                return False
        except UndefinedError:
            continue
        defined += 1
        if defined == 4:
            break
    if defined == 0:
        raise UnreadableError
    return True


def approximately(tree: Tree) -> Any:
    """The real value of a closed formula as an mpmath number of 60 digits.

    Raises:
        UnreadableError: it has symbols, no value, or none that is real.
    """
    if symbols(tree):
        raise UnreadableError
    try:
        value = _Numeric({}, _FEW_DIGITS).value(tree)
    except UndefinedError:
        raise UnreadableError from None
    context = _context(_FEW_DIGITS)
    if isinstance(value, context.mpc):
        if abs(value.imag) > abs(value) * context.mpf(10) ** (20 - _FEW_DIGITS):
            raise UnreadableError
        value = value.real
    if not context.isfinite(value):
        raise UnreadableError
    return value


def exactly(tree: Tree) -> Fraction | None:
    """The rational value of a closed formula, None when it is irrational or has symbols."""
    try:
        return None if symbols(tree) else Exact({}).value(tree)
    except (InexactError, UndefinedError, UnreadableError):
        return None


def is_rounding_of(decimal: Tree, text: str, value: Tree) -> bool:
    """Whether `text`, a decimal of twelve significant digits or more, is the irrational `value` rounded."""
    digits = text.strip().lstrip("+-")
    if "." not in digits or not digits.replace(".", "", 1).isdigit():
        return False
    if len(digits.replace(".", "").lstrip("0")) < _MIN_CALCULATOR_DIGITS or exactly(value) is not None:
        return False
    exact = approximately(value)
    if len(digits) >= _FLOAT_DIGITS and float(text) == float(exact):
        return True  # what a program prints: the nearest float, which is not the nearest decimal
    context = _context(_FEW_DIGITS)
    half_a_place = context.mpf(5) / 10 ** (len(digits.partition(".")[2]) + 1)
    return bool(abs(approximately(decimal) - exact) <= half_a_place)


def _draw(generator: random.Random, counting: bool, *, negative: bool) -> Fraction:
    if counting:
        return Fraction(generator.randint(7, 60))
    size = Fraction(generator.randint(10_001, 99_999), generator.randint(10_001, 49_999))
    return -size if negative else size


def _needs_whole_numbers(tree: Tree) -> bool:
    if tree[0] == "fn" and tree[1] in {"factorial", "binomial"} and symbols(tree):
        return True
    children = [child for part in tree[1:] for child in (part if isinstance(part, list) else [part])]
    return any(isinstance(child, tuple) and _needs_whole_numbers(child) for child in children)


def _equal_at(a: Tree, b: Tree, point: dict[str, Fraction]) -> bool:
    try:
        return Exact(point).value(a) == Exact(point).value(b)
    except InexactError:
        pass
    coarse, few = _difference(a, b, point, _FEW_DIGITS)
    if coarse > few.mpf(10) ** (10 - _FEW_DIGITS):
        return False
    fine, many = _difference(a, b, point, _MANY_DIGITS)
    noise = fine <= many.mpf(10) ** (30 - _MANY_DIGITS)
    return bool(noise and (coarse == 0 or fine < many.mpf(coarse) * many.mpf(10) ** -200))


def _difference(a: Tree, b: Tree, point: dict[str, Fraction], digits: int) -> tuple[Any, Any]:
    """|a - b| relative to the larger of them; where one is 0, to the largest value on the way to it."""
    context = _context(digits)
    numeric = _Numeric(point, digits)
    left, right = numeric.value(a), numeric.value(b)
    if not (context.isfinite(left) and context.isfinite(right)):
        raise UndefinedError
    largest = max(abs(left), abs(right))
    if largest == 0:
        return largest, context
    if min(abs(left), abs(right)) == 0:
        # A true zero is rounding noise here, and shrinks with the digits; a number does not, however small.
        return (largest / max(numeric.largest, 1) if numeric.cancelled else context.mpf(1)), context
    return abs(left - right) / largest, context


def _context(digits: int) -> Any:
    if not hasattr(_contexts, "by_digits"):
        _contexts.by_digits = {}
    contexts: dict[int, Any] = _contexts.by_digits
    if digits not in contexts:
        from mpmath import MPContext

        contexts[digits] = MPContext()
        contexts[digits].dps = digits
    return contexts[digits]


class _Numeric:
    """Values to a number of digits, complex where needed; functions see bounded arguments only."""

    def __init__(self, point: dict[str, Fraction], digits: int) -> None:
        self.point = point
        self.context = _context(digits)
        self.largest = self.context.mpf(0)
        self.cancelled = False  # whether a sum was formed, the one place where noise can stand for 0

    def value(self, tree: Tree) -> Any:
        in_time()
        result = self._value(tree)
        size = abs(result)
        if size > self.largest:
            self.largest = size
        return result

    def _value(self, tree: Tree) -> Any:
        kind, context = tree[0], self.context
        if kind == "num" or kind == "sym":
            number = tree[1] if kind == "num" else self.point[tree[1]]
            return context.mpf(number.numerator) / number.denominator
        if kind == "const":
            return {"pi": +context.pi, "e": +context.e, "i": context.mpc(0, 1)}[tree[1]]
        if kind == "neg":
            return -self.value(tree[1])
        if kind == "sum":
            self.cancelled = True
            return sum((self.value(child) for child in tree[1][1:]), self.value(tree[1][0]))
        if kind == "prod":
            result = self.value(tree[1][0])
            for child in tree[1][1:]:
                result = result * self.value(child)
            return result
        if kind == "div":
            below = self.value(tree[2])
            if below == 0:
                raise UndefinedError
            return self.value(tree[1]) / below
        if kind == "pow":
            return self._real_power(self.value(tree[1]), tree[2])
        if kind == "root":
            base, degree = self.value(tree[1]), self.value(tree[2])
            if degree == 0:
                raise UndefinedError
            if not isinstance(base, context.mpc) and base < 0 and degree % 2 == 1:
                return -self._power(-base, 1 / degree)
            return self._power(base, 1 / degree)
        return self._function(tree)

    def _real_power(self, base: Any, exponent: Tree) -> Any:
        """A power; of a negative number to p/q with an odd q the real one, as of the q-th root."""
        if not isinstance(base, self.context.mpc) and base < 0:
            try:
                exact = Exact(self.point).value(exponent)
            except InexactError:
                exact = Fraction(1)
            if exact.denominator > 1 and exact.denominator % 2:
                size = self._power(-base, self.value(exponent))
                return -size if exact.numerator % 2 else size
        return self._power(base, self.value(exponent))

    def _power(self, base: Any, exponent: Any) -> Any:
        context = self.context
        if base == 0:
            if not isinstance(exponent, context.mpc) and exponent > 0:
                return context.mpf(0)
            raise UndefinedError
        if abs(exponent) * max(1, abs(context.log(base))) > _LARGEST_EXPONENT:
            raise UnreadableError(Reason.TOO_LARGE)
        return context.power(base, exponent)

    def _function(self, tree: Tree) -> Any:
        name, context = tree[1], self.context
        if name in {"factorial", "binomial", "floor", "ceil"}:
            try:
                exact = Exact(self.point)
                number = ON_RATIONALS[name](*[exact.value(child) for child in tree[2]])
            except InexactError:
                raise UnreadableError from None
            return context.mpf(number.numerator) / number.denominator
        arguments = [self.value(child) for child in tree[2]]
        first = arguments[0]
        if abs(first) > _LARGEST_EXPONENT and name not in {"abs", "ln", "log", "lg"}:
            raise UnreadableError(Reason.TOO_LARGE)
        if name in {"ln", "log", "lg"}:
            return self._logarithm(name, arguments)
        self.cancelled = True  # the sine of pi is noise too
        if name in {"cot", "sec", "csc", "tan"}:
            below = {"cot": context.sin, "csc": context.sin}.get(name, context.cos)(first)
            if abs(below) < context.mpf(10) ** (10 - context.dps):
                raise UndefinedError
        named = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "abs": "fabs"}
        return getattr(context, str(named.get(name, name)))(first)

    def _logarithm(self, name: str, arguments: list[Any]) -> Any:
        """A `log` without a base is to an unknown base: 10 and e are both meant by it."""
        context = self.context
        if arguments[0] == 0:
            raise UndefinedError
        value = context.log(arguments[0])
        if name == "ln":
            return value
        base = arguments[1] if len(arguments) == 2 else context.mpf(10 if name == "lg" else "7.7712345")
        if base == 0 or base == 1:
            raise UndefinedError
        return value / context.log(base)
