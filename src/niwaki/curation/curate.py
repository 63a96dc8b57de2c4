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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from niwaki.curation.decontaminate import NGRAM_WORDS, Benchmarks
from niwaki.curation.filters import FILTERS, LONGEST_GOLD_WORDS, why_dropped
from niwaki.curation.first_pass import Rules, find_duplicates, first_pass
from niwaki.curation.planted import audit
from niwaki.curation.second_pass import EXAMPLE_CHARS, NUM_EXAMPLES, SecondPass, Template
from niwaki.curation.sources import Aside
from niwaki.errors import DataError
from niwaki.ground.run import write_atomically
from niwaki.verify.question import Question, read_questions, write_questions

Stream = Callable[[Callable[[Aside], None]], Iterator[Question]]
SUMMARY = "curation.json"
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
    second = SecondPass(out, rules, seed=seed, mc_template=mc_template, open_template=open_template)
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
        if len(examples) < NUM_EXAMPLES:
            examples.append({"where": one.where, "problem": one.problem, "row": one.row[:EXAMPLE_CHARS]})

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
