"""Questions of all sources -> the questions to train on, what was dropped and why, and the counts.

arXiv 2504.13941, section 2, with our additions: filter -> decontaminate -> deduplicate -> template -> filter
again. In: streams of questions and the benchmarks that must stay unseen. Out, in one folder:

- questions.jsonl: what is kept
- dropped.jsonl: every question that is not, with the reason and the evidence
- aside.jsonl: rows of sources that gave no question
- benchmarks/NAME.jsonl: the benchmarks in the same record
- curation.json: the funnel of every source with examples, the audits of decontamination and of templates
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from niwaki.curation.decontaminate import NGRAM_WORDS, Benchmarks
from niwaki.curation.filters import FILTERS, LONGEST_GOLD_WORDS, why_dropped
from niwaki.curation.passes import Looked, Rules, find_duplicates, first_pass, looked_at
from niwaki.curation.planted import audit
from niwaki.curation.sources import Aside
from niwaki.curation.templates import Distractors, needs_its_options, to_open
from niwaki.curation.words import gold_text
from niwaki.errors import DataError
from niwaki.ground.run import write_atomically
from niwaki.verify.question import Question, read_questions, write_questions

Template = Literal["keep", "open", "mc", "both"]
Stream = Callable[[Callable[[Aside], None]], Iterator[Question]]
SUMMARY = "curation.json"
_EXAMPLES = 3
_EXAMPLE_CHARS = 240
_AUDITED = 300


def curate(
    sources: Mapping[str, Stream],
    out: Path,
    *,
    benchmarks: Mapping[str, Stream] | None = None,
    filters: tuple[str, ...] = tuple(FILTERS),
    longest_gold_words: int = LONGEST_GOLD_WORDS,
    longest_question_words: int | None = None,
    near_duplicates: float | None = 0.8,
    ngram_words: int = NGRAM_WORDS,
    mc_template: Template = "keep",
    open_template: Template = "keep",
    workers: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Curate `sources` into the folder `out`; return the summary, which is `curation.json`.

    Args:
        sources: name -> a function from a callback for unusable rows to a stream of questions.
        out: the folder; what a killed call left there is used.
        benchmarks: as sources; their questions are written down, and never kept from `sources`.
        filters: names of `FILTERS`.
        longest_gold_words: of open questions outside mathematics.
        longest_question_words: None for any length.
        near_duplicates: least similarity of a near duplicate; None looks for exact ones only.
        ngram_words: length of the word runs that betray contamination.
        mc_template: "keep"; "open": without options, those that need them are dropped; "both".
        open_template: "keep"; "mc": with mined wrong answers, those that find none are dropped; "both".
        workers: processes of the first pass. Default: one for each core.
        seed: fixes mined answers and places of letters.

    Raises:
        DataError: two questions of one id, or nothing is kept.
    """
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    aside = _AsideFile(out / "aside.jsonl")
    files = _write_benchmarks(benchmarks or {}, out / "benchmarks", aside)
    rules = Rules(
        filters, longest_gold_words, longest_question_words, near_duplicates is not None, ngram_words, files
    )
    work, counter = out / "work", _Counter()
    num_blocks = first_pass(
        counter.counted(sources, aside), work, rules=rules, workers=workers or os.cpu_count() or 1
    )
    duplicates = find_duplicates(
        work, num_blocks, near=near_duplicates is not None, threshold=near_duplicates or 1.0
    )
    second = _SecondPass(out, rules, seed=seed, mc_template=mc_template, open_template=open_template)
    second.run(work, num_blocks, duplicates)
    summary = {
        "sources": second.funnel(counter.rows, aside.counts),
        "aside_examples": aside.examples,
        "dropped_examples": second.examples,
        "templates": second.templates(),
        "gold_letters": second.letters,
        "contamination": _audit(files, ngram_words, seed, second.contamination),
        "num_questions": second.num_kept,
        "seconds": round(time.monotonic() - began, 1),
    }
    aside.close()
    if not second.num_kept:
        raise DataError(
            f"{out}: no question was kept of {sum(counter.rows.values())}; "
            f"most were dropped as {second.commonest()}.",
            f"See {out / 'dropped.jsonl'} and {out / 'aside.jsonl'}.",
        )
    write_atomically(out / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False))
    shutil.rmtree(work)
    return summary


class _AsideFile:
    """Rows that gave no question: written down, counted by source, a few kept as examples."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[dict[str, str]]] = {}

    def add(self, one: Aside) -> None:
        self._file.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")
        self.counts[one.source] += 1
        examples = self.examples.setdefault(one.source, [])
        if len(examples) < _EXAMPLES:
            examples.append({"where": one.where, "problem": one.problem, "row": one.row[:_EXAMPLE_CHARS]})

    def close(self) -> None:
        self._file.close()


class _Counter:
    """Counts the questions that each source gives, and refuses an id that comes twice in a source."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()

    def counted(self, sources: Mapping[str, Stream], aside: _AsideFile) -> Iterator[Question]:
        for name, stream in sources.items():
            previous = ""
            self.rows[name] = 0
            for question in stream(aside.add):
                if question.id == previous:
                    raise DataError(
                        f"source {name!r}: two questions have the id {question.id!r}.", "Rename one."
                    )
                previous = question.id
                self.rows[name] += 1
                yield question


def _write_benchmarks(
    benchmarks: Mapping[str, Stream], folder: Path, aside: _AsideFile
) -> tuple[tuple[str, str], ...]:
    files = []
    for name, stream in benchmarks.items():
        folder.mkdir(exist_ok=True)
        file = folder / f"{name}.jsonl"
        checkable = (
            q
            for q in stream(aside.add)
            if why_dropped(q, filters=("empty_gold", "gold_not_an_option")) is None
        )
        if not write_questions(file, checkable):
            raise DataError(f"benchmark {name!r}: has no questions.", "Check its path and adapter.")
        files.append((name, str(file)))
    return tuple(files)


class _SecondPass:
    """Duplicates out, templates on, filters again; counts and examples of everything."""

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
        if len(examples) < _EXAMPLES:
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
        if len(examples) < _EXAMPLES:
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
        "question": question.question[:_EXAMPLE_CHARS],
        "gold": question.gold[:_EXAMPLE_CHARS],
        "options": None if question.options is None else [one[:60] for one in question.options],
    }


def _audit(
    files: tuple[tuple[str, str], ...], ngram_words: int, seed: int, found: Mapping[str, Counter[str]]
) -> dict[str, Any] | None:
    if not files:
        return None
    items = [(name, question) for name, file in files for question in read_questions(file)]
    index = Benchmarks(items, ngram_words=ngram_words)
    planted = audit(index, [question for _, question in items], num_items=_AUDITED, seed=seed)
    return {
        "items": index.num_items,
        "boilerplate_ngrams": index.num_boilerplate,
        "found": {source: dict(counts) for source, counts in found.items()},
        "planted": planted.as_dict(),
    }
