"""Formulas: a spelled text (notation.py) to a tree (tree.py), by a parser of our own. Nothing is run as code.

Texts that two careful readers could read differently (1/2x, 2\\frac{3}{2}, sin x/2) are not read at all.
"""

from __future__ import annotations

from fractions import Fraction

from niwaki.verify.tokens import FUNCTIONS, number_of, repeating_of, tokens_of
from niwaki.verify.tree import Tree
from niwaki.verify.verdict import Reason, UnreadableError

LONGEST_FORMULA_CHARS = 1_000
_DEEPEST = 40

_GREEK_TABLE = """
    alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega
    Gamma Delta Theta Lambda Sigma Phi Psi Omega infty ell
"""
_GREEK = frozenset(_GREEK_TABLE.split())


def parse(text: str, *, lone_word: bool = False) -> Tree:
    """The tree of a spelled formula.

    A run of letters is a product of symbols only next to other signs, or when `lone_word` allows two letters.

    Raises:
        UnsupportedError: it uses integrals, sums, matrices and the like.
        UnreadableError: it is no formula, is ambiguous, or is longer or deeper than is sensible.
    """
    if len(text) > LONGEST_FORMULA_CHARS:
        raise UnreadableError(Reason.TOO_LONG)
    if text.isalpha() and text not in {"pi", "e", "i"} and len(text) > (2 if lone_word else 1):
        raise UnreadableError
    parser = _Parser(tokens_of(text))
    tree = parser.sum()
    if parser.position != len(parser.tokens):
        raise UnreadableError
    return tree


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = [token for token in tokens if token[0] != "space"]
        self.spaced = self._after_space(tokens)
        self.position = self.depth = self.bars = 0

    @staticmethod
    def _after_space(tokens: list[tuple[str, str]]) -> set[int]:
        spaced, count = set(), 0
        for kind, _ in tokens:
            if kind == "space":
                spaced.add(count)
            else:
                count += 1
        return spaced

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.position += 1
        return token

    def expect(self, sign: str) -> None:
        if self.take()[1] != sign:
            raise UnreadableError

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError(Reason.TOO_LARGE)
        terms = [self.product()]
        while self.peek() in {("sign", "+"), ("sign", "-")}:
            sign = self.take()[1]
            term = self.product()
            terms.append(("neg", term) if sign == "-" else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("sum", terms)

    def product(self) -> Tree:
        result: list[Tree] = [self.signed()]
        divided = False
        while True:
            kind, value = self.peek()
            if (kind, value) in {("sign", "*"), ("command", "times"), ("command", "cdot")}:
                self.take()
                result.append(self.signed())
                divided = False
            elif (kind, value) == ("sign", "/"):
                self.take()
                if divided:
                    raise UnreadableError
                left = result[0] if len(result) == 1 else ("prod", result)
                if left[0] == "fn" and left[-1] == "bare":
                    raise UnreadableError
                result, divided = [("div", left, self.signed())], True
            elif self._starts_factor(kind, value):
                if divided or kind in {"number", "repeating"}:
                    raise UnreadableError
                result.append(self.power())
            else:
                return result[0] if len(result) == 1 else ("prod", result)

    def signed(self) -> Tree:
        signs = 0
        negative = False
        while self.peek() in {("sign", "+"), ("sign", "-")}:
            negative ^= self.take()[1] == "-"
            signs += 1
        if signs > 2:
            raise UnreadableError
        tree = self.power()
        return ("neg", tree) if negative else tree

    def power(self) -> Tree:
        base = self.atom()
        while self.peek() in {("sign", "!"), ("sign", "°")}:
            if self.take()[1] == "!":
                if self.peek() == ("sign", "!"):
                    raise UnreadableError
                base = ("fn", "factorial", [base])
            else:
                base = ("prod", [base, ("div", ("const", "pi"), ("num", Fraction(180)))])
        if self.peek() == ("sign", "^"):
            self.take()
            base = ("pow", base, self.exponent())
        return base

    def exponent(self) -> Tree:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError(Reason.TOO_LARGE)
        negative = self.peek() == ("sign", "-")
        if negative:
            self.take()
        tree = self.power()
        self.depth -= 1
        return ("neg", tree) if negative else tree

    def _starts_factor(self, kind: str, value: str) -> bool:
        if kind in {"number", "repeating", "letter", "command"}:
            return (kind, value) not in {("command", "rfloor"), ("command", "rceil")}
        return kind == "sign" and (value in {"(", "{", "["} or (value == "|" and not self.bars))

    def atom(self) -> Tree:
        kind, value = self.take()
        if kind == "number":
            return self.mixed(number_of(value), whole=value.isdigit())
        if kind == "repeating":
            return ("num", repeating_of(value))
        if kind == "letter":
            return self.symbol(value)
        if kind == "command":
            return self.command(value)
        if kind == "sign" and value in {"(", "{", "["}:
            tree = self.sum()
            self.expect({"(": ")", "{": "}", "[": "]"}[value])
            return tree
        if kind == "sign" and value == "|":
            self.bars += 1
            tree = self.sum()
            self.bars -= 1
            self.expect("|")
            return ("fn", "abs", [tree])
        raise UnreadableError

    def mixed(self, whole_part: Fraction, *, whole: bool) -> Tree:
        """A number, with the proper fraction that may follow it: 1 1/2, 1\\frac{1}{2}."""
        if self.peek() == ("command", "frac"):
            self.take()
            above, below = self.argument(), self.argument()
            if not whole or not _proper(above, below):
                raise UnreadableError
            return ("num", whole_part + above[1] / below[1])
        (kind, above_text), slash, (kind_below, below_text) = self.peek(), self.peek(1), self.peek(2)
        if (
            kind == kind_below == "number"
            and slash == ("sign", "/")
            and self.position in self.spaced
            and whole
        ):
            above, below = ("num", number_of(above_text)), ("num", number_of(below_text))
            if not _proper(above, below):
                raise UnreadableError
            self.position += 3
            return ("num", whole_part + above[1] / below[1])
        return ("num", whole_part)

    def symbol(self, name: str) -> Tree:
        if self.peek() == ("sign", "_"):
            self.take()
            name += "_" + self.subscript()
        primes = 0
        while self.peek() == ("sign", "'"):
            self.take()
            primes += 1
        name += "'" * primes
        if name in {"f", "g", "h"} and self.peek() == ("sign", "("):
            raise UnreadableError  # a function that we do not know, and no product
        return ("const", name) if name in {"e", "i"} else ("sym", name)

    def subscript(self) -> str:
        if self.peek() != ("sign", "{"):
            kind, value = self.take()
            if kind not in {"number", "letter"}:
                raise UnreadableError
            return value
        self.take()
        parts = []
        while self.peek()[1] != "}":
            kind, value = self.take()
            if kind not in {"number", "letter", "command"} and value not in {"+", "-"}:
                raise UnreadableError
            parts.append(value)
        self.take()
        return "".join(parts)

    def argument(self) -> Tree:
        """The argument of a LaTeX command: a group, or one digit or letter."""
        kind, value = self.peek()
        if kind == "number" and len(value) > 1 and value.isdigit():
            self.tokens[self.position] = ("number", value[1:])
            return ("num", Fraction(value[0]))
        if kind == "number" and value.isdigit():
            self.take()
            return ("num", Fraction(value))
        if (kind, value) == ("sign", "{") or kind in {"letter", "command"}:
            return self.atom()
        raise UnreadableError

    def command(self, name: str) -> Tree:
        if name == "frac":
            return ("div", self.argument(), self.argument())
        if name in {"sqrt", "cbrt"}:
            return self.root(3 if name == "cbrt" else 2)
        if name == "pi":
            return ("const", "pi")
        if name in _GREEK:
            return self.symbol("\\" + name)
        if name == "binom":
            return ("fn", "binomial", [self.argument(), self.argument()])
        if name in {"lfloor", "lceil"}:
            tree = self.sum()
            if self.take() != ("command", "r" + name[1:]):
                raise UnreadableError
            return ("fn", name[1:], [tree])
        if name == "abs":
            return ("fn", "abs", [self.bracketed()])
        if name in FUNCTIONS:
            return self.function(name)
        raise UnreadableError

    def root(self, degree: int) -> Tree:
        index: Tree = ("num", Fraction(degree))
        if self.peek() == ("sign", "["):
            self.take()
            index = self.sum()
            self.expect("]")
        if self.peek()[0] == "number":  # √12 is the root of twelve
            return ("root", ("num", number_of(self.take()[1])), index)
        return ("root", self.atom(), index)

    def bracketed(self) -> Tree:
        if self.peek()[1] not in {"(", "{", "["}:
            raise UnreadableError
        return self.atom()

    def function(self, name: str) -> Tree:
        base: list[Tree] = []
        power: Tree | None = None
        if name == "log" and self.peek() == ("sign", "_"):
            self.take()
            base = [self.atom()] if self.peek()[1] == "{" else [self.argument()]
        if self.peek() == ("sign", "^"):
            self.take()
            power = self.exponent()
        if power == ("neg", ("num", Fraction(1))):
            if name not in {"sin", "cos", "tan"}:
                raise UnreadableError
            name, power = "arc" + name, None
        if self.peek()[1] in {"(", "{", "["}:
            result: Tree = ("fn", name, [self.atom(), *base])
            if self.peek() == ("sign", "^"):  # ln(x)^2: of the value, or of the argument?
                raise UnreadableError
        else:
            factors = []
            while self._starts_factor(*self.peek()) and self.peek()[1] not in FUNCTIONS:
                factors.append(self.power())
            if not factors:
                raise UnreadableError
            result = ("fn", name, [factors[0] if len(factors) == 1 else ("prod", factors), *base])
            if self.peek() == ("sign", "/"):  # sin x/2
                raise UnreadableError
        return result if power is None else ("pow", result, power)


def _proper(above: Tree, below: Tree) -> bool:
    return (
        above[0] == below[0] == "num"
        and above[1].denominator == below[1].denominator == 1
        and (0 < above[1] < below[1])
    )
