"""The second pass of curation over what the first one looked at: duplicates out, templates on, filters again.

In: the blocks of `first_pass.py` and the duplicates among them. Out: questions.jsonl and dropped.jsonl, and
counts and examples of everything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from niwaki.curation.filters import why_dropped
from niwaki.curation.first_pass import Looked, Rules, looked_at
from niwaki.curation.templates import Distractors, needs_its_options, to_open
from niwaki.curation.words import gold_text
from niwaki.verify.question import Question, write_questions

Template = Literal["keep", "open", "mc", "both"]
NUM_EXAMPLES = 3
EXAMPLE_CHARS = 240


class SecondPass:
    """Writes the questions that are kept and those that are not, and counts both.

    Attributes:
        num_kept: questions kept, of all sources.
        examples: reason -> a few of the questions dropped for it.
        contamination: source -> benchmark -> how many of its questions were in it.
        letters: source -> letter of the right option -> how many of its kept questions have it.
    """

    def __init__(
        self, out: Path, rules: Rules, *, seed: int, mc_template: Template, open_template: Template
    ) -> None:
        self._out, self._rules, self._seed = out, rules, seed
        self._mc, self._open = mc_template, open_template
        self._dropped: dict[str, Counter[str]] = {}
        self._kept: dict[str, Counter[str]] = {}
        self._audit: dict[str, dict[str, Any]] = {}
        self.examples: dict[str, list[dict[str, Any]]] = {}
        self.contamination: dict[str, Counter[str]] = {}
        self.letters: dict[str, dict[str, int]] = {}
        self.num_kept = 0

    def run(self, work: Path, num_blocks: int, duplicates: Mapping[int, tuple[int, float]]) -> None:
        """Go through the blocks in `work`; `duplicates` is what `find_duplicates` says of them."""
        distractors = Distractors(seed=self._seed)
        wanted = {of for of, _ in duplicates.values()}
        originals: dict[int, tuple[str, str]] = {}
        for place, looked in enumerate(looked_at(work, num_blocks)):
            if place in wanted:
                originals[place] = (looked.question.id, gold_text(looked.question))
            if self._open != "keep" and looked.reason is None and looked.question.options is None:
                distractors.add(looked.question)
        with (self._out / "dropped.jsonl").open("w", encoding="utf-8") as dropped:

            def kept() -> Iterator[Question]:
                for place, looked in enumerate(looked_at(work, num_blocks)):
                    if place in duplicates and looked.reason is None:
                        looked = _as_duplicate(looked, duplicates[place], originals)
                    for one in self._templated(looked, distractors):
                        if one.reason is None:
                            self._count(one.question)
                            yield one.question
                        else:
                            self._drop(one, dropped)

            self.num_kept = write_questions(self._out / "questions.jsonl", kept())

    def _templated(self, looked: Looked, distractors: Distractors) -> Iterator[Looked]:
        question, is_mc = looked.question, looked.question.options is not None
        template = self._mc if is_mc else self._open
        if looked.reason is not None or template in {"keep", "mc" if is_mc else "open"}:
            yield looked
            return
        if template == "both":
            yield looked
        changed, reason = self._change(question, distractors)
        if changed is not None and changed.id == question.id and template == "both":
            changed = _renamed(changed)
        self._note(question, changed, reason)
        if changed is not None:
            yield Looked(changed, None, {})
        elif template != "both":
            yield Looked(question, reason, {})

    def _change(self, question: Question, distractors: Distractors) -> tuple[Question | None, str | None]:
        if question.options is None:
            changed = distractors.to_mc(question)
            return changed, None if changed is not None else "too_few_distractors"
        if reason := needs_its_options(question):
            return None, reason
        changed = to_open(question)
        reason = why_dropped(
            changed, filters=self._rules.filters, longest_gold_words=self._rules.longest_gold_words
        )
        return (None, f"open_{reason}") if reason else (changed, None)

    def _note(self, question: Question, changed: Question | None, reason: str | None) -> None:
        way = "to_mc" if question.options is None else "to_open"
        audit = self._audit.setdefault(way, {"changed": 0, "dropped": Counter(), "examples": {}})
        if changed is not None:
            audit["changed"] += 1
        else:
            audit["dropped"][reason] += 1
        examples = audit["examples"].setdefault(reason or "changed", [])
        if len(examples) < NUM_EXAMPLES:
            shown = _example(changed or question)
            examples.append(shown)

    def _count(self, question: Question) -> None:
        self._kept.setdefault(question.source, Counter())[question.template] += 1
        if question.options is not None:
            letter = question.gold.strip("() ")[:1].upper()
            letters = self.letters.setdefault(question.source, {})
            letters[letter] = letters.get(letter, 0) + 1

    def _drop(self, looked: Looked, file: Any) -> None:
        question, reason = looked.question, looked.reason or ""
        self._dropped.setdefault(question.source, Counter())[reason] += 1
        if reason == "contaminated":
            by_benchmark = self.contamination.setdefault(question.source, Counter())
            by_benchmark[looked.evidence["benchmark"]] += 1
        row = {"reason": reason, "evidence": looked.evidence, "question": question.as_row()}
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        examples = self.examples.setdefault(reason, [])
        if len(examples) < NUM_EXAMPLES:
            examples.append(_example(question) | {"evidence": looked.evidence})

    def funnel(self, rows: Mapping[str, int], aside: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """For every source: rows set aside, questions read, dropped by reason, kept by template."""
        return {
            name: {
                "aside": aside.get(name, 0),
                "questions": count,
                "dropped": dict(self._dropped.get(name, {})),
                "kept": dict(self._kept.get(name, {})),
            }
            for name, count in rows.items()
        }

    def templates(self) -> dict[str, Any]:
        """Questions changed, those that could not be by reason, and examples of each."""
        return {way: audit | {"dropped": dict(audit["dropped"])} for way, audit in self._audit.items()}

    def commonest(self) -> str:
        """The reason that drops most."""
        total: Counter[str] = sum(self._dropped.values(), Counter())
        return total.most_common(1)[0][0] if total else "nothing"


def _as_duplicate(
    looked: Looked, found: tuple[int, float], originals: Mapping[int, tuple[str, str]]
) -> Looked:
    of, similarity = found
    original, gold = originals[of]
    reason = "duplicate" if similarity == 1.0 else "near_duplicate"
    if gold != gold_text(looked.question):
        reason = "duplicate_with_other_gold"
    return Looked(looked.question, reason, {"of": original, "similarity": round(similarity, 3)})


def _renamed(question: Question) -> Question:
    return replace(question, id=f"{question.id}-{question.template}")


def _example(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.question[:EXAMPLE_CHARS],
        "gold": question.gold[:EXAMPLE_CHARS],
        "options": None if question.options is None else [one[:60] for one in question.options],
    }
