"""Any model and files of questions -> how well it answers them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from niwaki.errors import RecipeError
from niwaki.evaluation.answers import answer
from niwaki.evaluation.passk import summarise
from niwaki.ground.model import load_model, load_tokenizer
from niwaki.ground.run import input_hash, stage, write_atomically
from niwaki.pipelines.inputs import device
from niwaki.pipelines.reason_table import show_one
from niwaki.verify.question import read_questions

_PASSES = (1, 2, 4, 8, 16, 32, 64)


def ask(
    model: str,
    files: Sequence[Path],
    *,
    out: Path,
    num_samples: int,
    num_seeds: int,
    temperature: float,
    max_new_tokens: int,
    prompt: str,
    batch_rows: int,
) -> dict[str, Any]:
    """Ask `model` the questions of `files`, each a benchmark; returns and prints what results.json holds.

    Raises:
        RecipeError: two files of one name.
    """
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise RecipeError(f"Two files are called {names[0]!r}.", "Rename one: the name is the benchmark's.")
    settings = {
        "num_samples": num_samples,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "prompt": prompt,
        "batch_rows": batch_rows,
    }
    benchmarks = {file.stem: list(read_questions(file)) for file in files}
    asked = {name: [q.as_row() for q in questions] for name, questions in benchmarks.items()}

    def work(folder: Path) -> None:
        answered = answer(
            load_model(model, device=device()),
            load_tokenizer(model),
            benchmarks,
            file=folder / "samples.jsonl",
            seeds=range(num_seeds),
            **settings,  # type: ignore[arg-type]
        )
        results = {"model": model, "seeds": num_seeds, **settings, **summarise(answered, ks=_PASSES)}
        write_atomically(folder / "results.json", json.dumps(results, indent=1, allow_nan=False))

    inputs = {"model": model, "questions": input_hash(asked), "seeds": num_seeds, **settings}
    folder = stage(out.parent, out.name, inputs, work)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    show_one(results, out=out)
    return results
