"""The first pass of curation over the questions of all sources: in bounded memory, in parallel, resumable.

It looks at what concerns one question alone (filters, contamination, fingerprints), in blocks of a few
thousand on several processes. A finished block is a pair of files, so that a killed run goes on after the
last of them. `find_duplicates` then compares all blocks.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.curation.decontaminate import NGRAM_WORDS, Benchmarks
from niwaki.curation.duplicates import NUM_PERMUTATIONS, Fingerprints, fingerprint
from niwaki.curation.filters import FILTERS, LONGEST_GOLD_WORDS, why_dropped
from niwaki.verify.question import Question, read_questions

BLOCK_ROWS = 2_000
_SECONDS_BETWEEN_LINES = 20.0
_FINGERPRINT = np.dtype(
    [
        ("exact", np.uint64),
        ("strict", np.uint64),
        ("signature", np.uint32, (NUM_PERMUTATIONS,)),
        ("length", np.int64),
    ]
)


@dataclass(frozen=True)
class Looked:
    """A question with what the first pass found: why it is dropped (None: kept so far), and the evidence."""

    question: Question
    reason: str | None
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """What the first pass looks for; sent to its processes once."""

    filters: tuple[str, ...] = tuple(FILTERS)
    longest_gold_words: int = LONGEST_GOLD_WORDS
    longest_question_words: int | None = None
    near: bool = True
    ngram_words: int = NGRAM_WORDS
    benchmarks: tuple[tuple[str, str], ...] = ()  # name, file of questions


def first_pass(questions: Iterable[Question], folder: Path, *, rules: Rules, workers: int) -> int:
    """Look at every question once; blocks land in `folder`. Returns the number of blocks.

    Blocks that are there already are not looked at again: the same questions must come in the same order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if workers == 1:
        _prepare(rules)
        return _drive(_blocks(questions), folder, lambda block, place: _now(block, folder, place), 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _prepare, (rules,)) as pool:
        return _drive(
            _blocks(questions),
            folder,
            lambda block, place: pool.submit(_look, block, folder, place),
            workers * 3,
        )


def looked_at(folder: Path, num_blocks: int) -> Iterator[Looked]:
    """Every question of the first pass, in order."""
    for place in range(num_blocks):
        with (folder / f"{place:06d}.jsonl").open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                where = f"block {place}, row {number}"
                yield Looked(Question.from_row(row["question"], where=where), row["reason"], row["evidence"])


def find_duplicates(
    folder: Path, num_blocks: int, *, near: bool, threshold: float
) -> dict[int, tuple[int, float]]:
    """Place of a question among all -> (place of the one it repeats, similarity), for those kept so far."""
    prints = Fingerprints(folder, near=near)
    places, start = [], 0
    for place in range(num_blocks):
        block = np.load(folder / f"{place:06d}.npz", allow_pickle=False)
        kept = np.flatnonzero(block["kept"])
        rows = block["fingerprints"][kept]
        prints.add(rows["exact"], rows["strict"], rows["signature"], rows["length"], block["shingles"])
        places.append(start + kept)
        start += len(block["kept"])
    where = np.concatenate(places) if places else np.empty(0, np.int64)
    found = {
        int(where[one.index]): (int(where[one.of]), one.similarity)
        for one in prints.duplicates(threshold=threshold)
    }
    prints.close()
    return found


def _blocks(questions: Iterable[Question]) -> Iterator[list[Question]]:
    rows = iter(questions)
    while block := list(islice(rows, BLOCK_ROWS)):
        yield block


def _drive(
    blocks: Iterable[list[Question]],
    folder: Path,
    submit: Callable[[list[Question], int], Future[None]],
    most_waiting: int,
) -> int:
    """Submit blocks that are not there yet, a few ahead of the slowest, and wait for all."""
    waiting: list[Future[None]] = []
    num_rows, num_blocks = 0, 0
    began = spoke = time.monotonic()
    for place, block in enumerate(blocks):
        num_rows, num_blocks = num_rows + len(block), place + 1
        if not (folder / f"{place:06d}.jsonl").exists():
            waiting.append(submit(block, place))
        if len(waiting) >= most_waiting:
            waiting.pop(0).result()
        if (now := time.monotonic()) - spoke >= _SECONDS_BETWEEN_LINES:
            spoke = now
            print(
                f"curate: {num_rows:,} questions, {num_rows / (now - began):,.0f} a second", file=sys.stderr
            )
    for one in waiting:
        one.result()
    return num_blocks


def _now(block: Sequence[Question], folder: Path, place: int) -> Future[None]:
    _look(block, folder, place)
    future: Future[None] = Future()
    future.set_result(None)
    return future


_state: dict[str, Any] = {}


def _prepare(rules: Rules) -> None:
    items = ((name, question) for name, file in rules.benchmarks for question in read_questions(file))
    _state["rules"] = rules
    _state["benchmarks"] = Benchmarks(items, ngram_words=rules.ngram_words) if rules.benchmarks else None


def _look(block: Sequence[Question], folder: Path, place: int) -> None:
    rules: Rules = _state["rules"]
    prints = np.zeros(len(block), _FINGERPRINT)
    kept = np.zeros(len(block), bool)
    lines, shingles = [], [np.empty(0, np.uint32)]
    for index, question in enumerate(block):
        reason, evidence = _judge(question, rules, _state["benchmarks"])
        lines.append(
            json.dumps(
                {"question": question.as_row(), "reason": reason, "evidence": evidence}, ensure_ascii=False
            )
        )
        kept[index] = reason is None
        if reason is None:
            print_of = fingerprint(question, near=rules.near)
            signature = print_of.signature if rules.near else 0
            prints[index] = (print_of.exact, print_of.strict, signature, len(print_of.shingles))
            shingles.append(print_of.shingles)
    arrays = folder / f".{place:06d}.partial.npz"
    np.savez(arrays, fingerprints=prints, kept=kept, shingles=np.concatenate(shingles))
    arrays.replace(folder / f"{place:06d}.npz")
    text = folder / f".{place:06d}.partial.jsonl"
    text.write_text("".join(line + "\n" for line in lines), "utf-8")
    text.replace(folder / f"{place:06d}.jsonl")


def _judge(
    question: Question, rules: Rules, benchmarks: Benchmarks | None
) -> tuple[str | None, dict[str, Any]]:
    reason = why_dropped(
        question,
        filters=rules.filters,
        longest_gold_words=rules.longest_gold_words,
        longest_question_words=rules.longest_question_words,
    )
    if reason is None and benchmarks is not None and (hit := benchmarks.find(question)):
        return "contaminated", asdict(hit)
    return reason, {}
