"""Measure one model folder, outside any run: held-out loss on a text, and lm-eval tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from niwaki.errors import DataError
from niwaki.evaluation.harness import run_tasks
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground import processes
from niwaki.ground.model import load_tokenizer
from niwaki.ground.run import write_atomically
from niwaki.ground.stream import Rows
from niwaki.ground.streamed import load_or_stream
from niwaki.ground.text import Document, read_documents, stdlib_documents

LONGEST_ROW_TOKENS = 2048
MOST_TOKENS = 1_000_000
BATCH_ROWS = 4


def measure(
    model_folder: Path,
    *,
    data: str | None,
    tasks: Sequence[str] = (),
    include_path: Path | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure, print, and write to `out` as JSON if it is given.

    Args:
        model_folder: any folder that `transformers` loads; larger than memory: layer by layer.
        data: a source as in `ground.text.read_documents`, of which the first million tokens count; of
            "stdlib", only the modules that the bundled teacher never saw. None leaves the loss out.
        tasks: names of lm-eval, or of tasks under `include_path`.

    Returns:
        {"loss": {"nats_per_token", "bits_per_byte", "num_tokens"}, "tasks": {...}}, the first two as
        [mean, low, high] at 95 %.
    """
    if data is not None:
        documents = stdlib_documents("held_out") if data == "stdlib" else read_documents(data)
    model, tokenizer = load_or_stream(model_folder), load_tokenizer(model_folder)
    results: dict[str, Any] = {"model": str(model_folder)}
    if data is not None:
        ids, num_bytes = first_tokens(documents, tokenizer, name=data)
        context = getattr(model.config, "max_position_embeddings", None) or LONGEST_ROW_TOKENS
        rows = Rows(ids, sequence_length=min(LONGEST_ROW_TOKENS, context, len(ids) - 1))
        found = held_out_loss(
            model, rows, num_rows=rows.num_rows, batch_rows=BATCH_ROWS, bytes_per_token=num_bytes / len(ids)
        )
        assert found.bits_per_byte is not None
        results["loss"] = {
            "data": data,
            "nats_per_token": [
                found.nats_per_token.mean,
                found.nats_per_token.low,
                found.nats_per_token.high,
            ],
            "bits_per_byte": [found.bits_per_byte.mean, found.bits_per_byte.low, found.bits_per_byte.high],
            "num_tokens": found.num_tokens,
        }
    if tasks:
        answers = run_tasks(model, tokenizer, tasks, include_path=include_path)
        results["tasks"] = {name: _without_scores(asdict(answer)) for name, answer in answers.items()}
    _print(results)
    if out is not None:
        processes.by_main(lambda: write_atomically(out, json.dumps(results, indent=1)))
    return results


def first_tokens(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, *, name: str
) -> tuple[np.ndarray, int]:
    """The first `MOST_TOKENS` tokens, documents joined by end-of-text, and the bytes of text they stand for.

    Raises DataError when there are fewer than two tokens.
    """
    ids: list[int] = []
    num_bytes = 0
    for document in documents:
        found = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        ids += [*found, tokenizer.eos_token_id]
        num_bytes += len(document.text.encode())
        if len(ids) >= MOST_TOKENS:
            num_bytes = round(num_bytes * MOST_TOKENS / len(ids))
            break
    if len(ids) < 2:
        raise DataError(f"data {name!r} holds no text to measure on.", "Give a file or folder with text.")
    return np.array(ids[:MOST_TOKENS]), num_bytes


def _without_scores(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "scores"}


def _print(results: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if "loss" in results:
        for unit in ("nats_per_token", "bits_per_byte"):
            mean, low, high = results["loss"][unit]
            console.print(f"{unit.replace('_', ' ')}  {mean:.4f}  ({low:.4f} to {high:.4f})")
    for task, answer in results.get("tasks", {}).items():
        for metric, value in answer["metrics"].items():
            error = answer["stderr"].get(metric)
            console.print(
                f"{task} {metric}  {value:.4f}" + (f"  (standard error {error:.4f})" if error else "")
            )
