"""The reward of an answer: accuracy AND form, as one function.

`R = R_acc AND R_format`, 0 or 1 (arXiv 2504.13941, section 2). Two rewards that a trainer adds up are another
thing: they pay for the form of a wrong answer. Here is also what the paper's claim is to be compared with:
that sum, accuracy alone, and a coin.

Every completion gets a grade with codes for what was found; one that cannot be graded gets 0, never a chance.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from niwaki.errors import RecipeError, TrainingError
from niwaki.rl.form import OPEN, Form, form_of
from niwaki.verify.check import check
from niwaki.verify.question import Question

Rule = Literal["and", "sum", "accuracy", "random"]
Accuracy = Literal["typed", "exact"]

# Codes beside those of verify.verdict.Reason.
TRUNCATED, GRADER_ERROR = "truncated", "grader_error"
_HURRIED_LIMIT_S = 0.05


@dataclass(frozen=True)
class Completion:
    """What a model wrote to a question. `ended`: by its end-of-text token, not by the limit on its length."""

    question: Question
    text: str
    num_tokens: int
    ended: bool


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    `reason` is a code of `verify.verdict.Reason`, or `truncated`, or `grader_error`; `extracted` what was
    graded, None where nothing was.
    """

    reward: float
    correct: bool
    form: Form
    reason: str
    extracted: str | None = None


Grader = Callable[[Sequence[Completion]], list[Grade]]


def grader(
    rule: Rule = "and",
    *,
    accuracy: Accuracy = "typed",
    limit_s: float = 1.0,
    batch_limit_s: float = 120.0,
    thought_is_open: bool = False,
    seed: int = 0,
) -> Grader:
    """A function from completions to grades.

    Args:
        rule: "and": right and well formed. "sum": half a point for each. "accuracy": right in any form.
            "random": a fair coin for every completion, the control that a gain must beat.
        accuracy: "typed" grades by the type of the gold answer (`verify.check`); "exact" by equality of
            strings, the paper's rule.
        limit_s: seconds for one verdict.
        batch_limit_s: seconds for all of a batch; after that each verdict gets 0.05 s, so that no number of
            hostile answers stalls the training.
        thought_is_open: the prompt ends with `<think>`, so completions begin inside the thought.
        seed: of the coin.

    Raises:
        RecipeError: there is no such rule. The function itself raises TrainingError when not a single
            completion of a batch can be graded.
    """
    if rule not in get_args(Rule):
        raise RecipeError(f"There is no reward rule {rule!r}.", f"Rules: {', '.join(get_args(Rule))}.")

    def grade(completions: Sequence[Completion]) -> list[Grade]:
        hurries_at = time.monotonic() + batch_limit_s
        grades, errors = [], []
        for number, completion in enumerate(completions):
            limit = limit_s if time.monotonic() < hurries_at else min(limit_s, _HURRIED_LIMIT_S)
            try:
                correct, form, reason, extracted = _verdict(completion, accuracy, limit, thought_is_open)
            except Exception as error:
                errors.append(error)
                correct, form, reason, extracted = False, Form.NO_THOUGHT, GRADER_ERROR, None
            well_formed = form is Form.OK and completion.ended
            reward = {
                "and": float(correct and well_formed),
                "sum": (correct + well_formed) / 2,
                "accuracy": float(correct),
                "random": _coin(seed, number, completion),
            }[rule]
            grades.append(Grade(reward if reason != GRADER_ERROR else 0.0, correct, form, reason, extracted))
        if errors and len(errors) == len(completions):
            raise TrainingError(
                f"Not one of {len(completions)} answers could be graded: {errors[0]!r}.",
                "Look at the question that the error names; nothing was rewarded.",
            ) from errors[0]
        return grades

    return grade


def _verdict(
    completion: Completion, accuracy: Accuracy, limit_s: float, thought_is_open: bool
) -> tuple[bool, Form, str, str | None]:
    text = f"{OPEN}{completion.text}" if thought_is_open else completion.text
    form = form_of(text)
    if not completion.ended:
        return False, form, TRUNCATED, None
    question = completion.question
    if accuracy == "exact":
        verdict = check(text, question.gold, type="exact", options=question.options, limit_s=limit_s)
    else:
        verdict = question.check(text, limit_s=limit_s)
    return verdict.correct, form, verdict.reason.value, verdict.extracted


def _coin(seed: int, number: int, completion: Completion) -> float:
    told = f"{seed} {number} {completion.question.id} {completion.text}"
    return float(hashlib.sha256(told.encode()).digest()[0] & 1)
