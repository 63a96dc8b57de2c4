"""Asking a model questions: sampled, graded, and kept in a file so that a killed evaluation goes on.

In: a model and benchmarks (name -> questions). Out: `Answered` for each question, and `samples.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from niwaki.errors import EvaluationError
from niwaki.evaluation.passk import Answered, GradedSample
from niwaki.ground.generate import Sample, prompt_end, sample
from niwaki.ground.metrics import read_metrics
from niwaki.verify.prompt import prompt_of
from niwaki.verify.question import Question

_Asked = Sequence[tuple[str, Question]]


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    benchmarks: Mapping[str, Sequence[Question]],
    *,
    file: Path,
    prompt: str,
    num_samples: int,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int,
    batch_rows: int = 128,
    limit_s: float = 1.0,
    label: str = "answering",
) -> list[Answered]:
    """Sample and grade `num_samples` answers of each seed to every question.

    Args:
        file: a line for each question and seed; what is there is not asked again.
        temperature: 0 for the likeliest answer, with one sample and one seed.

    Raises:
        EvaluationError: no questions, two of one benchmark with the same id, or samples asked for that
            would all be the same.
    """
    asked = [(name, question) for name, questions in benchmarks.items() for question in questions]
    _refuse(asked, seeds, temperature)
    known = {(row["benchmark"], row["id"], row["seed"]): row for row in read_metrics(file)}
    thought = "<think>" if prompt_end(tokenizer).rstrip().endswith("<think>") else ""
    for seed in seeds:
        open_ones = [(name, q) for name, q in asked if (name, q.id, seed) not in known]
        if not open_ones:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)

        def keep(
            numbers: Sequence[int], written: list[list[Sample]], at: _Asked = open_ones, seed: int = seed
        ) -> None:
            rows = [
                {
                    "benchmark": at[number][0],
                    "id": at[number][1].id,
                    "seed": seed,
                    "samples": [_graded(at[number][1], s, thought, limit_s) for s in samples],
                }
                for number, samples in zip(numbers, written, strict=True)
            ]
            known.update({(row["benchmark"], row["id"], row["seed"]): row for row in rows})
            with file.open("a", encoding="utf-8") as lines:
                lines.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

        sample(
            model,
            tokenizer,
            [prompt_of(question, prompt) for _, question in open_ones],
            num_samples=num_samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            batch_rows=batch_rows,
            seed=seed,
            label=label,
            keep=keep,
        )
    return [
        Answered(
            f"{name}/{question.id}",
            name,
            question.domain,
            tuple(_samples(known[name, question.id, seed]) for seed in seeds),
        )
        for name, question in asked
    ]


def _graded(question: Question, written: Sample, thought: str, limit_s: float) -> dict[str, Any]:
    text = thought + written.text
    verdict = question.check(text, limit_s=limit_s)
    return {
        "correct": verdict.correct and written.ended,
        "reason": verdict.reason.value if written.ended else "truncated",
        "extracted": verdict.extracted if written.ended else None,
        "num_tokens": written.num_tokens,
        "ended": written.ended,
        "text": text,
    }


def _samples(row: Mapping[str, Any]) -> tuple[GradedSample, ...]:
    return tuple(
        GradedSample(s["correct"], s["extracted"], s["num_tokens"], s["ended"]) for s in row["samples"]
    )


def _refuse(asked: _Asked, seeds: Sequence[int], temperature: float) -> None:
    if not asked:
        raise EvaluationError("There is no question to ask.", "Name a benchmark that holds questions.")
    if temperature == 0 and len(seeds) > 1:
        raise EvaluationError(
            f"{len(seeds)} seeds at temperature 0 give the same answers.", "Use one, or raise temperature."
        )
    seen = set()
    for name, question in asked:
        if (name, question.id) in seen:
            raise EvaluationError(
                f"benchmark {name!r} has two questions with the id {question.id!r}.", "Give each its own."
            )
        seen.add((name, question.id))
