"""The last stage of a sparsify run: every way to the same sparsity, measured on the same held-out text."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from niwaki.evaluation.harness import run_tasks
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground import processes
from niwaki.ground.progress import progress
from niwaki.masks.apply import apply_in_memory
from niwaki.masks.file import MaskFile
from niwaki.masks.speed import measure_shapes
from niwaki.pipelines.inputs import task_folder
from niwaki.pipelines.sparsify_inputs import APPLY, PRIOR, PRIOR_MASK, SparsifyInputs, mask_of
from niwaki.pipelines.sparsify_learn import write_record
from niwaki.pipelines.sparsify_prior import layer_sensitivity, prune

_BATCH_ROWS = 8


def compare(inputs: SparsifyInputs, folder: Path) -> dict[str, Any]:
    """Measure; each finished measurement is kept in `folder`, so a killed stage goes on.

    Returns:
        {"models": {name: measurements}, "mask": facts of the resulting mask, "sensitivity": {layer: nats},
        "speed": list or None}. Models are "dense", the one-shot methods asked for, and "sparse", the result.
    """
    prior = json.loads((inputs.run / PRIOR / "prior.json").read_text())
    names = ["dense", *inputs.recipe.evaluate.methods, "sparse"]
    if inputs.recipe.learn is not None and (inputs.run / PRIOR / PRIOR_MASK).exists():
        names.insert(-1, "prior")
    dense = inputs.load(inputs.folder)
    models: dict[str, Any] = {}
    with progress("evaluate", total=len(names)) as bar:
        for name in names:
            record = folder / f"{name}.json"
            if not processes.by_main(record.exists):
                model = _model(inputs, name, prior["dense"])
                found = _measure(
                    inputs, model, None if name == "dense" else dense, name in ("dense", "sparse")
                )
                write_record(record, found)
            models[name] = json.loads(processes.by_main(record.read_text))
            bar.advance(name)
    mask = MaskFile(mask_of(inputs.run))
    layers: dict[int, float] = {}
    if inputs.recipe.evaluate.sensitivity_rows:
        layers = layer_sensitivity(inputs, inputs.masked_folder, mask.load())
    return {
        "models": models,
        "mask": {
            "pattern": str(mask.pattern),
            "num_weights": mask.num_weights,
            "bytes": mask.path.stat().st_size,
            "bits_per_weight": 8 * mask.path.stat().st_size / mask.num_weights,
            "dense": prior["dense"],
            "updated_weights": prior["update"],
            "learned": inputs.recipe.learn is not None,
        },
        "sensitivity": layers,
        "speed": processes.by_main(lambda: _speed(mask)) if inputs.recipe.evaluate.speed else None,
    }


def _model(inputs: SparsifyInputs, name: str, dense: list[str]) -> PreTrainedModel:
    if name == "dense":
        return inputs.load(inputs.folder)
    if name == "sparse":
        return inputs.load(inputs.run / APPLY / "model")
    if name == "prior":
        model = inputs.load(inputs.masked_folder)
        apply_in_memory(model, MaskFile(inputs.run / PRIOR / PRIOR_MASK).load(), inputs.pattern)
        return model
    model = inputs.load(inputs.folder)
    method: Any = name.removesuffix("_update")
    pruned = prune(inputs, model, method, update=name.endswith("_update"), dense=dense)
    masks = {each.name: each.numbers for each in pruned}
    apply_in_memory(model, masks, inputs.pattern)
    return model


def _measure(
    inputs: SparsifyInputs, model: PreTrainedModel, dense: PreTrainedModel | None, with_tasks: bool
) -> dict[str, Any]:
    texts = inputs.texts
    held_out = held_out_loss(
        model,
        texts.held_out,
        num_rows=texts.num_held_out_rows,
        batch_rows=_BATCH_ROWS,
        teacher=dense,
        bytes_per_token=texts.corpus.held_out.bytes_per_token,
    )
    curve = texts.num_curve_rows
    recipe = inputs.recipe
    tasks = {}
    if with_tasks and recipe.evaluate.tasks:
        found = run_tasks(
            model,
            texts.tokenizer,
            recipe.evaluate.tasks,
            include_path=task_folder(recipe),
            limit=recipe.evaluate.max_questions,
        )
        tasks = {
            task: {**answer.metrics, "num_questions": answer.num_questions, "version": answer.version}
            for task, answer in found.items()
        }
    return {
        "held_out_loss": asdict(held_out.nats_per_token),
        "perplexity": held_out.perplexity,
        "bits_per_byte": held_out.bits_per_byte.mean if held_out.bits_per_byte else None,
        "kl_to_dense": asdict(held_out.kl_to_teacher) if held_out.kl_to_teacher else None,
        "tasks": tasks,
        # The rows of the training curve, so that a model can be drawn beside it.
        "curve_loss": sum(held_out.row_nats[:curve]) / sum(held_out.row_tokens[:curve]),
    }


def _speed(mask: MaskFile) -> list[dict[str, Any]] | None:
    measured = measure_shapes(mask)
    return None if measured is None else [asdict(each) for each in measured]
