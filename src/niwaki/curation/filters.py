"""Can answers to this question be checked? One function per reason to drop it.

arXiv 2504.13941, section 2.2: a multiple-choice question whose gold is not among its options is dropped; of
open general questions those with at most ten words of gold are kept; mathematics without a gold answer is
dropped. Ours beyond it: gold that our grader cannot read or does not accept as its own answer, options that
say the same, questions in several parts, and questions that prescribe a form of answer of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from niwaki.verify.check import infer_type
from niwaki.verify.choice import as_options, gold_label
from niwaki.verify.question import Question
from niwaki.verify.verdict import Type, UnreadableError

LONGEST_GOLD_WORDS = 10
_PARTS = re.compile(r"(?:\A|[\n.:;?!])\s*\(?a\)\s.{3,}?[\n.:;?!]\s*(?:and\s+)?\(?b\)\s", re.DOTALL)
_OWN_FORM = re.compile(
    r"\\boxed|<answer>|</?think>|####"
    r"|\b(?:answer|respond|reply|output) (?:\w+ ){0,3}(?:in|as) (?:json|xml|yaml)\b"
    r"|\b(?:your|the) final answer (?:\w+ ){0,3}(?:in|inside|within|between) ",
    re.IGNORECASE,
)


def empty_gold(question: Question) -> bool:
    """There is no gold answer."""
    return not question.gold.strip(" $.\\")


def gold_not_an_option(question: Question) -> bool:
    """Gold is none of the options, or more than one of them."""
    if question.options is None:
        return False
    try:
        gold_label(question.gold, as_options(question.options))
    except UnreadableError:
        return True
    return False


def options_repeat(question: Question) -> bool:
    """Two options say the same."""
    if question.options is None:
        return False
    said = [" ".join(option.split()).casefold().rstrip(".") for option in question.options]
    return len(set(said)) < len(said) or not all(said)


def long_gold(question: Question, longest_words: int = LONGEST_GOLD_WORDS) -> bool:
    """An open question's gold has more than `longest_words` words; mathematics may be longer."""
    if question.options is not None or question.domain == "math":
        return False
    return len(question.gold.split()) > longest_words


def unverifiable_gold(question: Question) -> bool:
    """Gold, put in a box, is not accepted as the answer to its own question. A letter always is."""
    if question.options is not None and re.fullmatch(r"\(?[A-Z]\)?", question.gold.strip()):
        return False
    return not question.check(f"\\boxed{{{question.gold}}}").correct


def several_parts(question: Question) -> bool:
    """It asks (a) and (b), with one gold answer for them."""
    if question.options is not None or not _PARTS.search(question.question):
        return False
    return infer_type(question.gold) in {Type.NUMBER, Type.EXPRESSION, Type.TEXT}


def own_form(question: Question) -> bool:
    """It prescribes a form of answer that contradicts the one that training asks for."""
    return _OWN_FORM.search(question.question) is not None


FILTERS: dict[str, Callable[[Question], bool]] = {
    check.__name__: check
    for check in (
        empty_gold,
        gold_not_an_option,
        options_repeat,
        long_gold,
        several_parts,
        own_form,
        unverifiable_gold,
    )
}


def why_dropped(
    question: Question,
    *,
    filters: tuple[str, ...] = tuple(FILTERS),
    longest_gold_words: int = LONGEST_GOLD_WORDS,
    longest_question_words: int | None = None,
) -> str | None:
    """The first filter that drops the question, None where it is kept. The cheap ones come first."""
    if longest_question_words is not None and len(question.question.split()) > longest_question_words:
        return "long_question"
    for name, drops in FILTERS.items():
        if name not in filters:
            continue
        if long_gold(question, longest_gold_words) if name == "long_gold" else drops(question):
            return name
    return None
