"""The two forms of a question, and the way from one to the other.

arXiv 2504.13941, section 2.3: T_MCQ and T_Open. Multiple choice becomes open by leaving the options out,
unless the question makes no sense without them. Open becomes multiple choice (ours, not the paper's) with
wrong answers mined from other questions, and gold as often at one place as at another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace

from niwaki.verify.check import check, infer_type
from niwaki.verify.choice import as_options, gold_label
from niwaki.verify.question import Question
from niwaki.verify.text import normal
from niwaki.verify.verdict import Type

_POINTS_AT_OPTIONS = re.compile(
    r"\b(?:which|what|who|whom|whose|all|any|none|one|each|two) (?:\w+ ){0,3}?"
    r"of (?:the )?(?:following|these|those|below|above)\b"
    r"|\b(?:the|these|those) (?:following|options?|choices|answers?|alternatives)\b(?! (?:is|in the form))"
    r"|\bfollowing (?:\w+ )?(?:is|are|was|were|would|could|can|may|might|does|do|did|has|have|best)\b"
    r"|\b(?:which|select|choose|pick|identify) (?:\w+ ){0,2}(?:option|choice|statement|answer|alternative"
    r"|sentence|pair|expression|equation|inequality|graph|diagram|figure|phrase)\b"
    r"|^which (?:is|are|was|were|one|would|best|statement)\b|\bexcept\b|\blisted (?:below|here)\b|\bbelow\b"
    r"|\b(?:true|false) statement\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:NOT|LEAST|EXCEPT)\b"
    r"|\b[Ww](?:hich|hat) (?:\w+ ){0,3}(?:is|are|was|were|does|do|did|would|could|can) not\b"
)
_JUDGEMENT = re.compile(
    r"\b(?:best|most (?:likely|appropriate|accurate|nearly|closely|probable)|least likely"
    r"|closest to|nearest to|primarily|probably|main (?:idea|purpose)|best title|can be inferred"
    r"|approximately|about how)\b",
    re.IGNORECASE,
)
_OPTION_ABOUT_OPTIONS = re.compile(
    r"\b(?:all|none|both|neither|any|either|two|more than one) (?:of )?(?:the |these |those )?"
    r"(?:above|following|options?|choices|answers?)\b"
    r"|\b(?:both|neither)\b|\b[IVX]+ (?:only|and [IVX]+)\b|\b[A-E] (?:and|or|&) [A-E]\b"
    r"|\bcannot be determined\b|\bnone\b|\binsufficient information\b",
    re.IGNORECASE,
)
_NAMES_A_TERM = re.compile(r"\b(?:called|known as|named|termed|equal to|equals)\s*:?\s*\Z", re.IGNORECASE)
_BLANK = re.compile(r"_{2,}|\.\.\.\s*$|…\s*$")


def needs_its_options(question: Question) -> str | None:
    """Why the question cannot be answered without its options, None where it can.

    A test of words, not of meaning: it asks about "the following", it is negated, it compares options,
    the right option speaks of others, or it is a sentence that could end in many ways.
    """
    asked = question.question
    if _POINTS_AT_OPTIONS.search(asked):
        return "points_at_options"
    if _NEGATED.search(asked):
        return "negated"
    if _JUDGEMENT.search(asked):
        return "compares_options"
    if _OPTION_ABOUT_OPTIONS.search(_right_option(question)):
        return "gold_about_options"
    whole = asked.rstrip().endswith("?") or _BLANK.search(asked) or _NAMES_A_TERM.search(asked)
    if not whole and not _is_a_task(asked):
        return "unfinished_sentence"
    return None


def to_open(question: Question) -> Question:
    """The question without its options; gold is the text of the right one. Ask `needs_its_options` first.

    Raises:
        UnreadableError: gold is none of the options.
    """
    gold = _right_option(question)
    meta = dict(question.meta) | {"options": list(question.options or ())}
    bare = gold.strip().rstrip(".") if infer_type(gold) is Type.TEXT else gold.strip()
    kind = infer_type(bare)
    return replace(
        question,
        gold=bare,
        type=Type.TEXT if kind is Type.MC else kind,
        options=None,
        template="open",
        meta=meta,
    )


class Distractors:
    """Gold answers of open questions to mine wrong ones from: a bounded random sample of each kind."""

    def __init__(self, *, seed: int, most_each: int = 2_000) -> None:
        self._most = most_each
        self._seed = seed
        self._rng = random.Random(f"distractors {seed}")
        self._pools: dict[tuple[str, Type, str], list[str]] = {}
        self._seen: dict[tuple[str, Type, str], int] = {}
        self._places: dict[str, Iterator[int]] = {}

    def add(self, question: Question) -> None:
        """Take the gold of an open question into the sample (reservoir sampling)."""
        key = _shape(question)
        pool = self._pools.setdefault(key, [])
        self._seen[key] = seen = self._seen.get(key, 0) + 1
        if len(pool) < self._most:
            pool.append(question.gold)
        elif (place := self._rng.randrange(seen)) < self._most:
            pool[place] = question.gold

    def to_mc(self, question: Question, *, num_options: int = 4) -> Question | None:
        """The question with three mined wrong answers, None where too few fit.

        A wrong answer is the gold of another question of the same source and kind, near in size or length;
        the grader must not accept it, and no two options may say the same. Places of gold are dealt out in
        shuffled rounds, so that every place holds equally many within a source.
        """
        rng = random.Random(f"{self._seed} {question.id}")
        wrong: list[str] = []
        for one in _nearest(question.gold, self._pools.get(_shape(question), []), rng):
            if len(wrong) == num_options - 1:
                break
            if not _same(one, question.gold, question.type) and not any(
                _same(one, other, question.type) for other in wrong
            ):
                wrong.append(one)
        if len(wrong) < num_options - 1:
            return None
        rng.shuffle(wrong)
        place = next(
            self._places.setdefault(question.source, _dealt(self._seed, question.source, num_options))
        )
        options = (*wrong[:place], question.gold, *wrong[place:])
        meta = dict(question.meta) | {"open_gold": question.gold}
        return replace(
            question, gold=chr(ord("A") + place), type=Type.MC, options=options, template="mc", meta=meta
        )


def _right_option(question: Question) -> str:
    assert question.options is not None
    options = as_options(question.options)
    return options[gold_label(question.gold, options)]


def _is_a_task(asked: str) -> bool:
    return (
        re.match(
            r"(?:find|compute|calculate|determine|evaluate|solve|simplify|name|give|state|express|write|convert"
            r"|statement 1)\b",
            asked.split(". ")[-1].strip(),
            re.IGNORECASE,
        )
        is not None
    )


def _shape(question: Question) -> tuple[str, Type, str]:
    """Golds of one shape can stand beside each other: same source, type, and unit or number of words."""
    kind = question.type or infer_type(question.gold)
    if kind is Type.NUMBER:
        return question.source, kind, re.sub(r"[\d.,\s]+", "#", question.gold)
    if kind is Type.TEXT:
        return question.source, kind, str(min(len(question.gold.split()), 4))
    return question.source, kind, str(len(question.gold) // 8)


def _nearest(gold: str, pool: list[str], rng: random.Random) -> list[str]:
    """Candidates, likely ones first: numbers by nearness (with a little chance), others in any order."""
    drawn = rng.sample(pool, min(len(pool), 60))
    value = _value(gold)
    if value is None:
        return drawn
    return sorted(drawn, key=lambda one: (_distance(value, _value(one)), one))


def _value(text: str) -> float | None:
    found = re.search(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[0].replace(",", "")) if found and len(found[0]) < 30 else None


def _distance(value: float, other: float | None) -> float:
    return float("inf") if other is None else abs(value - other) / (abs(value) + 1)


def _same(one: str, other: str, kind: Type | None) -> bool:
    return normal(one) == normal(other) or check(one, other, type=kind).correct


def _dealt(seed: int, source: str, num_places: int) -> Iterator[int]:
    rng = random.Random(f"places {seed} {source}")
    while True:
        places = list(range(num_places))
        rng.shuffle(places)
        yield from places
