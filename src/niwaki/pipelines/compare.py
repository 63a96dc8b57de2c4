"""Teacher, trimmed, distilled and the random-weights twin, measured side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from niwaki.evaluation.harness import run_tasks
from niwaki.evaluation.loss import held_out_loss
from niwaki.evaluation.paired import PAIRED, Measure, Paired, rows_hash, save_paired
from niwaki.evaluation.samples import sample_text
from niwaki.evaluation.speed import Speed, measure_speed
from niwaki.ground import processes
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.model import count_parameters
from niwaki.ground.progress import progress
from niwaki.ground.run import write_atomically
from niwaki.ground.streamed import fits, weights_bytes
from niwaki.pipelines.inputs import Inputs, compute_dtype, device, task_folder
from niwaki.pipelines.spoken import in_bytes
from niwaki.pipelines.teach import teach
from niwaki.recipe.compress import CompressRecipe

_BATCH_ROWS = 8
_SAMPLE_TOKENS = 64
# Where the record of a model keeps its numbers row by row; they end in `paired.json`.
UNITS = "units"
PROMPT_TOKENS, NEW_TOKENS = 128, 64


def compare(
    recipe: CompressRecipe, inputs: Inputs, models: dict[str, Path], *, folder: Path
) -> dict[str, Any]:
    """Measure every model; each finished measurement is kept in `folder`, so a killed stage goes on.

    Divergence is measured from the teacher, or from the "corrected" one where there is one.

    With `evaluate.baseline: random`, first trains the student's shape from random weights, with the same
    teacher, tokens and settings as the student, so that only where it started from differs.

    Returns:
        {"models": {name: measurements}, "samples": [{"prompt", name: text}]}.
    """
    if recipe.evaluate.baseline == "random":
        models = models | {"random": _train_random(recipe, inputs, models["trimmed"], folder / "random")}
    reference = models.get("corrected", models["teacher"])
    results = {}
    with progress("evaluate", total=len(models)) as bar:
        for name, path in models.items():
            results[name] = _measure_once(recipe, inputs, path, reference, folder / f"{name}.json")
            bar.advance(name)
    return _finish(recipe, inputs, models, results, folder)


def _finish(
    recipe: CompressRecipe, inputs: Inputs, models: dict[str, Path], results: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """What is measured of all models at once: pairs and speeds; and what they write."""
    pairs = _paired(inputs, results)
    processes.by_main(lambda: save_paired(folder / PAIRED, pairs))
    speeds = processes.by_main(lambda: _speeds(inputs, models)) if recipe.evaluate.speed else {}
    for name, speed in speeds.items():
        results[name]["speed"] = asdict(speed)
    shown = {name: models[name] for name in ("teacher", "distilled")}
    if processes.are_sharded():
        return {"models": results, "samples": _samples(recipe, inputs, shown)}
    return {"models": results, "samples": processes.by_main(lambda: _samples(recipe, inputs, shown))}


def _speeds(inputs: Inputs, models: dict[str, Path]) -> dict[str, Speed]:
    """Speeds of all models, measured in turn; none where they do not fit together."""
    needed_bytes = sum(weights_bytes(Checkpoint(path), compute_dtype()) for path in models.values())
    if not fits(needed_bytes, device()):
        Console(stderr=True, highlight=False).print(
            f"Speeds are left out: {in_bytes(needed_bytes)} of models do not fit on one device together."
        )
        return {}
    loaded = {name: inputs.load(path) for name, path in models.items()}
    return measure_speed(loaded, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS, batch=1, repeats=5)


def _measure_once(
    recipe: CompressRecipe, inputs: Inputs, path: Path, reference: Path, record: Path
) -> dict[str, Any]:
    if not processes.by_main(record.exists):
        found = json.dumps(_measure(recipe, inputs, path, reference), indent=1)
        processes.by_main(lambda: write_atomically(record, found))
    measured: dict[str, Any] = json.loads(processes.by_main(record.read_text))
    return measured


def _measure(recipe: CompressRecipe, inputs: Inputs, path: Path, reference: Path) -> dict[str, Any]:
    model = inputs.load_together(path)
    held_out = held_out_loss(
        model,
        inputs.held_out,
        num_rows=inputs.num_held_out_rows,
        batch_rows=_BATCH_ROWS,
        teacher=None if path == reference else inputs.load_together(reference),
        bytes_per_token=inputs.corpus.held_out.bytes_per_token,
    )
    # The rows of the training curves, so that a model can be drawn beside them.
    curve = inputs.num_curve_rows
    return {
        "num_parameters": count_parameters(model),
        "held_out_loss": asdict(held_out.nats_per_token),
        "bits_per_byte": held_out.bits_per_byte.mean if held_out.bits_per_byte else None,
        "perplexity": held_out.perplexity,
        "kl_to_teacher": asdict(held_out.kl_to_teacher) if held_out.kl_to_teacher else None,
        "tasks": _tasks(recipe, inputs, model),
        "disk_bytes": sum(f.stat().st_size for f in path.glob("*.safetensors")),
        "curve_loss": sum(held_out.row_nats[:curve]) / sum(held_out.row_tokens[:curve]),
        UNITS: {"nats": held_out.row_nats, "tokens": held_out.row_tokens},
    }


def _paired(inputs: Inputs, results: dict[str, Any]) -> Paired:
    """What was measured row by row and question by question, taken out of `results`."""
    rows = {name: result.pop(UNITS) for name, result in results.items()}
    measures = {
        "held-out loss": Measure(
            unit="nats per token",
            higher_is_better=False,
            units_hash=rows_hash(inputs.held_out, inputs.num_held_out_rows),
            values={name: row["nats"] for name, row in rows.items()},
            counts=rows["teacher"]["tokens"],
        )
    }
    answers = {
        name: {t: r.pop(UNITS) for t, r in result["tasks"].items()} for name, result in results.items()
    }
    for task, scores in answers["teacher"].items():
        for metric in scores["values"]:
            measures[f"{task} {metric}"] = Measure(
                unit="mean over questions",
                higher_is_better=scores["higher_is_better"][metric],
                units_hash=results["teacher"]["tasks"][task]["hash"],
                values={name: found[task]["values"][metric] for name, found in answers.items()},
            )
    return Paired(product="distilled", baseline="teacher", measures=measures)


def _tasks(recipe: CompressRecipe, inputs: Inputs, model: PreTrainedModel) -> dict[str, Any]:
    tasks = recipe.evaluate.tasks
    if not tasks:
        return {}
    found = run_tasks(
        model,
        inputs.tokenizer,
        tasks,
        include_path=task_folder(recipe),
        limit=recipe.evaluate.max_questions,
    )
    return {
        name: {
            **result.metrics,
            **{f"{metric}_stderr": error for metric, error in result.stderr.items()},
            "num_questions": result.num_questions,
            "version": result.version,
            "hash": result.hash,
            UNITS: {"values": result.scores, "higher_is_better": result.higher_is_better},
        }
        for name, result in found.items()
    }


def _train_random(recipe: CompressRecipe, inputs: Inputs, like: Path, folder: Path) -> Path:
    torch.manual_seed(recipe.seed)
    config = AutoConfig.from_pretrained(like, dtype="float32")
    student = AutoModelForCausalLM.from_config(config).to(device())
    return teach(inputs, student, files_from=like, out=folder, label="from random")


def _samples(recipe: CompressRecipe, inputs: Inputs, models: dict[str, Path]) -> list[dict[str, str]]:
    prompts = list(recipe.report.prompts)
    texts = {}
    for name, path in models.items():
        model = inputs.load_together(path)
        texts[name] = sample_text(
            model, inputs.tokenizer, prompts, max_new_tokens=_SAMPLE_TOKENS, seed=recipe.seed
        )
    return [{"prompt": p} | {name: texts[name][i] for name in texts} for i, p in enumerate(prompts)]
