"""How often a model answers a question: pass counts with Wilson intervals, kept in a file and used again.

arXiv 2504.13941, section 2.5: the paper asks a model each question once and drops what it answers. Ours
counts right answers among k, by model, prompt and question, adds up counts of several runs, and decides on
the Wilson interval; k = 1 with `highest=0` is the paper's rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niwaki.errors import DataError
from niwaki.ground.progress import progress
from niwaki.ground.stats import Interval, wilson
from niwaki.verify.question import Question

_BATCH_QUESTIONS = 16


@dataclass(frozen=True)
class Passes:
    """Right answers among the answers that a model gave to one question."""

    num_correct: int
    num_samples: int

    @property
    def interval(self) -> Interval:
        """The Wilson interval of the share of right answers."""
        return wilson(self.num_correct, self.num_samples)


class DifficultyStore:
    """A JSON lines file of pass counts. Appended to, never rewritten; a half-written last line is ignored."""

    def __init__(self, path: Path | str, *, model: str, prompt: str) -> None:
        """`prompt` names the wording that the questions are asked in; another wording has other counts.

        Raises:
            DataError: the file holds a line that is no pass count.
        """
        self._path = Path(path)
        self._who = {"model": model, "prompt": prompt}
        self._counts: dict[str, Passes] = {}
        for row in _rows(self._path):
            if row["model"] == model and row["prompt"] == prompt:
                self._add(row["key"], row["num_correct"], row["num_samples"])

    def add(self, question: Question, *, num_correct: int, num_samples: int) -> None:
        """Add counts of one question and write them down at once."""
        wilson(num_correct, num_samples)  # refuses counts that are none
        key = question_key(question)
        self._add(key, num_correct, num_samples)
        row = self._who | {
            "key": key,
            "id": question.id,
            "template": question.template,
            "num_correct": num_correct,
            "num_samples": num_samples,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(self._path)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def get(self, question: Question) -> Passes | None:
        """The counts of a question, None where it was never asked."""
        return self._counts.get(question_key(question))

    def __len__(self) -> int:
        return len(self._counts)

    def _add(self, key: str, num_correct: int, num_samples: int) -> None:
        old = self._counts.get(key, Passes(0, 0))
        self._counts[key] = Passes(old.num_correct + num_correct, old.num_samples + num_samples)


def question_key(question: Question) -> str:
    """A hash of what is asked: text, options, form and gold, not where it comes from."""
    said = [question.template, question.question, list(question.options or ()), question.gold]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:20]


def measure(
    questions: Sequence[Question],
    store: DifficultyStore,
    *,
    num_samples: int,
    answer: Callable[[Sequence[Question], int, int], Sequence[Sequence[str]]],
) -> int:
    """Ask what is missing until every question has `num_samples` answers; return how many answers that took.

    `answer(questions, n, seed)` gives n completions for each; the seed is another one for questions that have
    answers already. Every batch is in the store before the next one is asked, so a killed run goes on.
    """
    by_known: dict[int, list[Question]] = {}
    for question in questions:
        passes = store.get(question)
        known = passes.num_samples if passes else 0
        if known < num_samples:
            by_known.setdefault(known, []).append(question)
    asked = 0
    with progress("difficulty", total=sum(map(len, by_known.values()))) as bar:
        for known, group in sorted(by_known.items()):
            for start in range(0, len(group), _BATCH_QUESTIONS):
                batch = group[start : start + _BATCH_QUESTIONS]
                seed = int(question_key(batch[0])[:6], 16) + known
                answers = answer(batch, num_samples - known, seed)
                for question, completions in zip(batch, answers, strict=True):
                    right = sum(question.check(one).correct for one in completions)
                    store.add(question, num_correct=right, num_samples=len(completions))
                    asked += len(completions)
                    bar.advance()
    return asked


def keep_by_difficulty(
    questions: Iterable[Question], store: DifficultyStore, *, lowest: float = 0.0, highest: float = 1.0
) -> Iterator[tuple[Question, Passes | None, str | None]]:
    """Every question with its counts and why it is dropped: "too_hard", "too_easy", or None where it is kept.

    A question is dropped only when its whole Wilson interval lies outside [lowest, highest], so few samples
    drop little; with `lowest` 0 or `highest` 1 that side drops nothing. Of one sample, and with `highest` 0,
    any right answer drops (the paper's rule). Questions without counts are kept.
    """
    for question in questions:
        passes = store.get(question)
        if passes is None:
            yield question, None, None
            continue
        interval = passes.interval
        if passes.num_correct > 0 and (highest == 0 or interval.low > highest):
            yield question, passes, "too_easy"
        elif interval.high < lowest:
            yield question, passes, "too_hard"
        else:
            yield question, passes, None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            yield {name: row[name] for name in ("model", "prompt", "key", "num_correct", "num_samples")}
        except (ValueError, KeyError, TypeError):
            if number == len(lines) and not line.endswith("\n"):
                return  # a killed process's last word
            raise DataError(
                f"{path}, row {number}: is no pass count.", "Remove the row, or give another file."
            ) from None


def _end_last_line(path: Path) -> None:
    """Cut off a half-written last line before something is put behind it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content_bytes = file.seek(0, 2)
        if not content_bytes:
            return
        file.seek(-1, 2)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rpartition(b"\n")[0]
        file.truncate(len(whole) + 1 if whole else 0)
