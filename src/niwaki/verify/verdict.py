"""What grading returns: a verdict with a reason from a closed set. docs/verify.md explains every code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Type(StrEnum):
    """What kind of answer a gold answer is, and so which grader reads it."""

    MC = "mc"
    NUMBER = "number"
    EXPRESSION = "expression"
    SET = "set"
    TEXT = "text"
    EXACT = "exact"


class Reason(StrEnum):
    """Why an answer was found right or wrong. The first five are right, all others wrong."""

    SAME_TEXT = "same_text"
    EQUAL_VALUE = "equal_value"
    WITHIN_TOLERANCE = "within_tolerance"
    SAME_OPTION = "same_option"
    EQUIVALENT = "equivalent"

    DIFFERENT = "different"
    UNIT_DIFFERS = "unit_differs"
    UNIT_MISSING = "unit_missing"
    KIND_DIFFERS = "kind_differs"
    IDENTITY = "identity"
    NOT_AN_OPTION = "not_an_option"

    NO_ANSWER = "no_answer"
    UNFINISHED_THINKING = "unfinished_thinking"
    UNCLOSED = "unclosed"
    EMPTY_ANSWER = "empty_answer"
    SEVERAL_ANSWERS = "several_answers"
    NEGATED = "negated"
    RETRACTED = "retracted"
    UNREADABLE = "unreadable"
    TOO_LONG = "too_long"
    TOO_LARGE = "too_large"

    BAD_GOLD = "bad_gold"

    NEEDS_MATH_VERIFY = "needs_math_verify"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"


RIGHT = frozenset(
    {
        Reason.SAME_TEXT,
        Reason.EQUAL_VALUE,
        Reason.WITHIN_TOLERANCE,
        Reason.SAME_OPTION,
        Reason.EQUIVALENT,
    }
)


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and why.

    `extracted` is the part of the answer that was graded, None when there was none; `type` the grader that
    read it, given or inferred from the gold answer.
    """

    correct: bool
    reason: Reason
    type: Type
    extracted: str | None = None


class UnreadableError(Exception):
    """Raised inside the graders: this text is no answer of the type, and `reason` says why."""

    def __init__(self, reason: Reason = Reason.UNREADABLE) -> None:
        super().__init__(reason.value)
        self.reason = reason
