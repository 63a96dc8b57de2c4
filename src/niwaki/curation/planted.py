"""Precision and recall of decontamination, measured on cases planted from the benchmarks themselves.

Every run of curation measures them anew on its own benchmarks. Planted copies must be found: word for word,
in another layout, inside a longer text, without their options, with shuffled options, with one word changed
(if there are 30 or more). Planted innocents must not: the same text with other numbers, the same words in
another order, the beginning alone, other options under the same question.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from niwaki.curation.decontaminate import Benchmarks
from niwaki.curation.words import words
from niwaki.ground.stats import wilson
from niwaki.verify.question import Question

_BEFORE = "Solve the following problem and show your work."
_AFTER = "Think step by step and state your result at the end."
_LONG_WORDS = 30


@dataclass(frozen=True)
class Audit:
    """How many planted copies were found and how many innocents accused, in all and by kind."""

    num_copies: int
    num_found: int
    num_innocents: int
    num_accused: int
    by_kind: dict[str, tuple[int, int]]  # planted, called contaminated

    def as_dict(self) -> dict[str, Any]:
        """With precision and recall and their Wilson intervals, for a JSON file."""
        recall = wilson(self.num_found, self.num_copies) if self.num_copies else None
        called = self.num_found + self.num_accused
        precision = wilson(self.num_found, called) if called else None
        return asdict(self) | {
            "recall": asdict(recall) if recall else None,
            "precision": asdict(precision) if precision else None,
        }


def audit(benchmarks: Benchmarks, items: Sequence[Question], *, num_items: int = 300, seed: int = 0) -> Audit:
    """Plant copies and innocents of up to `num_items` of the benchmarks' items, and look for them."""
    rng = random.Random(f"planted {seed}")
    drawn = rng.sample(items, min(num_items, len(items)))
    counts: dict[str, list[int]] = {}
    for kind, plant in (_COPIES | _INNOCENTS).items():
        for place, item in enumerate(drawn):
            planted = plant(item, drawn[place - 1], rng)
            if planted is not None:
                tally = counts.setdefault(kind, [0, 0])
                tally[0] += 1
                tally[1] += benchmarks.find(planted) is not None
    by_kind = {kind: (tally[0], tally[1]) for kind, tally in counts.items()}
    copies = [tally for kind, tally in by_kind.items() if kind in _COPIES]
    innocents = [tally for kind, tally in by_kind.items() if kind in _INNOCENTS]
    return Audit(
        num_copies=sum(planted for planted, _ in copies),
        num_found=sum(found for _, found in copies),
        num_innocents=sum(planted for planted, _ in innocents),
        num_accused=sum(found for _, found in innocents),
        by_kind=by_kind,
    )


Plant = Callable[[Question, Question, random.Random], Question | None]


def _verbatim(item: Question, _: Question, __: random.Random) -> Question:
    return item


def _other_layout(item: Question, _: Question, __: random.Random) -> Question:
    text = re.sub(r"([,;.!?])", r" \1", item.question.replace("$", " ")).upper()
    return replace(item, question="  ".join(text.split()))


def _inside(item: Question, _: Question, __: random.Random) -> Question:
    return replace(item, question=f"{_BEFORE}\n\n{item.question}\n\n{_AFTER}")


def _without_options(item: Question, _: Question, __: random.Random) -> Question | None:
    if item.options is None:
        return None
    return replace(item, gold=_right(item), options=None, type=None, template="open")


def _shuffled_options(item: Question, _: Question, rng: random.Random) -> Question | None:
    if item.options is None:
        return None
    options = list(item.options)
    rng.shuffle(options)
    return replace(item, options=tuple(options), gold=chr(ord("A") + options.index(_right(item))))


def _one_word_changed(item: Question, _: Question, rng: random.Random) -> Question | None:
    parts = item.question.split()
    places = [place for place, word in enumerate(parts) if word.isalpha()]
    if len(words(item.question)) < _LONG_WORDS or not places:
        return None
    parts[rng.choice(places)] = "certain"
    return replace(item, question=" ".join(parts))


def _other_numbers(item: Question, _: Question, __: random.Random) -> Question | None:
    changed = re.sub(r"\d+", lambda match: str(int(match[0]) + 7), item.question)
    numbers = sum(word.isdecimal() for word in words(item.question))
    return replace(item, question=changed, gold="-") if numbers >= 2 else None


def _other_order(item: Question, _: Question, rng: random.Random) -> Question | None:
    parts = item.question.split()
    rng.shuffle(parts)
    return replace(item, question=" ".join(parts), gold="-") if len(parts) > 5 else None


def _beginning(item: Question, _: Question, __: random.Random) -> Question | None:
    parts = item.question.split()
    kept = " ".join(parts[: min(len(parts) // 2, 10)])
    return replace(item, question=kept, gold="-", options=None) if len(parts) > 8 else None


def _other_options(item: Question, other: Question, __: random.Random) -> Question | None:
    if item.options is None or other.options is None or len(words(item.question)) > 10:
        return None
    return replace(item, options=tuple(f"{option} instead" for option in other.options))


def _right(item: Question) -> str:
    assert item.options is not None
    return item.options[ord(item.gold.strip("()")[0].upper()) - ord("A")]


_COPIES: dict[str, Plant] = {
    "verbatim": _verbatim,
    "other layout": _other_layout,
    "inside a longer text": _inside,
    "without options": _without_options,
    "shuffled options": _shuffled_options,
    "one word changed": _one_word_changed,
}
_INNOCENTS: dict[str, Plant] = {
    "other numbers": _other_numbers,
    "words in another order": _other_order,
    "the beginning alone": _beginning,
    "other options": _other_options,
}
