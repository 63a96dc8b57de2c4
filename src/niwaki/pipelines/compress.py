"""Minitron, from a teacher to a smaller student, in order (arXiv 2407.14679, 2408.11796).

score -> choose -> trim -> distill -> evaluate -> report

Each stage reads folders and writes one, `stage` skips it when it is done, and every model in between is a
stock Hugging Face folder. Run directories are described in docs/architecture.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from niwaki.distillation.train import check_same_tokenizer
from niwaki.ground.model import local_folder
from niwaki.ground.run import input_hash, stage, write_atomically
from niwaki.pipelines.compare import compare
from niwaki.pipelines.cut import cut
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.open_run import MANIFEST, begin, require
from niwaki.pipelines.plan import plan
from niwaki.pipelines.results_table import show
from niwaki.pipelines.teach import teach
from niwaki.pipelines.trials import rank
from niwaki.pruning.score import score
from niwaki.pruning.scores import Scores
from niwaki.recipe.compress import CompressRecipe
from niwaki.reporting.card import write_card
from niwaki.reporting.page import write_report

SCORE, CHOOSE, TRIM, DISTILL, EVALUATE = "1-score", "2-choose", "3-trim", "4-distill", "5-evaluate"
_SHOWN_AXES = ("layer", "hidden", "ffn", "group")
ORDER = (SCORE, CHOOSE, TRIM, DISTILL, EVALUATE)


def run(recipe: CompressRecipe, *, out: Path) -> dict[str, Any]:
    """The whole line; returns what `5-evaluate/results.json` holds. A killed run goes on where it stopped."""
    plan(recipe, out=out, flops_per_s=1.0).raise_problems()
    for next_stage in (score_stage, choose_stage, trim_stage, distill_stage, evaluate_stage):
        next_stage(recipe, out)
    report_stage(out)
    results: dict[str, Any] = json.loads((out / EVALUATE / "results.json").read_text())
    show(results, out=out)
    return results


def score_stage(recipe: CompressRecipe, out: Path) -> None:
    """One calibration pass that scores every axis."""
    inputs = Inputs(recipe)

    def work(folder: Path) -> None:
        scores = score(
            inputs.load(inputs.teacher_folder),
            inputs.calibration,
            num_samples=recipe.score.num_samples,
            batch_rows=recipe.score.batch_rows,
            sequence=(recipe.score.sequence,),
            model_id=inputs.teacher_fingerprint,
            data_id=inputs.corpus.fingerprint,
            checkpoint=folder / "partial.safetensors",
        )
        scores.save(folder / "scores.safetensors")
        _write_json(folder / "importance.json", _importance(scores, recipe))

    _stage(SCORE, recipe, out, inputs, work)


def choose_stage(recipe: CompressRecipe, out: Path) -> None:
    """Rank the shapes inside the budget, by default after a short distillation of each."""
    require(out, SCORE)
    inputs = Inputs(recipe)

    def work(folder: Path) -> None:
        scores = Scores.load(out / SCORE / "scores.safetensors")
        _write_json(folder / "candidates.json", rank(recipe, inputs, scores, folder=folder))

    _stage(CHOOSE, recipe, out, inputs, work)


def trim_stage(recipe: CompressRecipe, out: Path) -> None:
    """Cut the teacher to the chosen shape, folder to folder."""
    require(out, CHOOSE)
    inputs = Inputs(recipe)

    def work(folder: Path) -> None:
        ranking = json.loads((out / CHOOSE / "candidates.json").read_text())
        sizes = next(c["sizes"] for c in ranking["candidates"] if c["chosen"])
        scores = Scores.load(out / SCORE / "scores.safetensors")
        cut(inputs, scores, sizes, folder / "model")

    _stage(TRIM, recipe, out, inputs, work)


def distill_stage(recipe: CompressRecipe, out: Path) -> None:
    """Teach the trimmed model: forward KL on logits (arXiv 2408.11796, section 3)."""
    require(out, TRIM)
    inputs = Inputs(recipe)

    def work(folder: Path) -> None:
        trimmed = out / TRIM / "model"
        check_same_tokenizer(inputs.teacher_folder, trimmed)
        teach(inputs, inputs.load_student(trimmed), files_from=trimmed, out=folder, label="distil")

    _stage(DISTILL, recipe, out, inputs, work)


def evaluate_stage(recipe: CompressRecipe, out: Path) -> None:
    """Teacher, trimmed and distilled side by side, and the same shape from random weights if asked for."""
    require(out, DISTILL)
    inputs = Inputs(recipe)

    def work(folder: Path) -> None:
        models = {
            "teacher": inputs.teacher_folder,
            "trimmed": out / TRIM / "model",
            "distilled": out / DISTILL / "model",
        }
        _write_json(folder / "results.json", compare(recipe, inputs, models, folder=folder))

    _stage(EVALUATE, recipe, out, inputs, work)


def report_stage(out: Path) -> None:
    """One page about the run, and the model card of the student."""
    student = out / DISTILL / "model"
    if (student / "config.json").exists():
        teacher = json.loads((out / MANIFEST).read_text())["teacher"]["path"]
        write_card(out, student, teacher_dir=local_folder(teacher))
    write_report(out)


def stage_inputs(recipe: CompressRecipe, inputs: Inputs) -> dict[str, dict[str, Any]]:
    """What each stage depends on: its sections of the recipe, and all that the stages before depend on."""
    resolved = recipe.model_dump(mode="json")
    sections = {
        SCORE: ("score", "seed"),
        CHOOSE: ("choose", "trim", "distill"),
        TRIM: (),
        DISTILL: ("distill",),
        EVALUATE: ("evaluate", "report"),
    }
    depends: dict[str, dict[str, Any]] = {}
    before = inputs.facts()
    for name in ORDER:
        depends[name] = {section: resolved[section] for section in sections[name]} | {
            "earlier stages": input_hash(before)
        }
        if name == SCORE:
            depends[name] |= before
        before = depends[name]
    return depends


def _stage(name: str, recipe: CompressRecipe, out: Path, inputs: Inputs, work: Any) -> None:
    depends = stage_inputs(recipe, inputs)
    begin(out, recipe, inputs.facts(), depends)
    stage(out, name, depends[name], work)


def _importance(scores: Scores, recipe: CompressRecipe) -> dict[str, Any]:
    pair = {"batch": recipe.score.batch, "sequence": recipe.score.sequence}
    return {
        **{
            axis: scores.importance(axis, **pair).tolist()
            for axis in _SHOWN_AXES
            if axis in scores.provenance["axes"]
        },
        "num_samples": scores.num_samples,
        "sequence_length_tokens": recipe.data.sequence_length_tokens,
    }


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1))
