"""Minitron, from a teacher to a smaller student, in order (arXiv 2407.14679, 2408.11796).

(correct) -> score -> choose -> trim -> distill -> evaluate -> report

Each stage reads folders and writes one, `stage` skips it when it is done, and every model in between is a
stock Hugging Face folder. Run directories are described in docs/architecture.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from niwaki.distillation.train import check_same_tokenizer
from niwaki.errors import NiwakiError, RecipeError
from niwaki.ground import processes
from niwaki.ground.run import input_hash, stage, write_atomically
from niwaki.pipelines import importance, plan_table
from niwaki.pipelines.cached_teacher import check_cache
from niwaki.pipelines.compare import compare
from niwaki.pipelines.cut import cut
from niwaki.pipelines.inputs import CORRECT, Inputs
from niwaki.pipelines.open_run import begin, require
from niwaki.pipelines.plan import plan
from niwaki.pipelines.product import write_product_card
from niwaki.pipelines.results_table import show
from niwaki.pipelines.teach import correct_teacher, teach
from niwaki.pipelines.trials import rank
from niwaki.recipe.compress import CompressRecipe
from niwaki.reporting.compress_page import write_report

SCORE, CHOOSE, TRIM, DISTILL, EVALUATE = "1-score", "2-choose", "3-trim", "4-distill", "5-evaluate"
ORDER = (CORRECT, SCORE, CHOOSE, TRIM, DISTILL, EVALUATE)


def run(recipe: CompressRecipe, *, out: Path) -> dict[str, Any]:
    """The whole line; returns what `5-evaluate/results.json` holds. A killed run goes on where it stopped."""
    plan(recipe, out=out, flops_per_s=1.0).raise_problems()
    if recipe.correct_tokens:
        correct_stage(recipe, out)
    for next_stage in (score_stage, choose_stage, trim_stage, distill_stage, evaluate_stage):
        next_stage(recipe, out)
    report(out)
    results: dict[str, Any] = json.loads((out / EVALUATE / "results.json").read_text())
    show(results, out=out)
    return results


def check(recipe: CompressRecipe, *, out: Path, flops_per_s: float | None) -> Sequence[NiwakiError]:
    """Print the plan; returns its problems."""
    planned = plan(recipe, out=out, flops_per_s=flops_per_s)
    plan_table.show(planned)
    return planned.problems


def correct_stage(recipe: CompressRecipe, out: Path) -> None:
    """Fine-tune the teacher on the text first (arXiv 2408.11796, section 3); it is the run's teacher then.

    Raises:
        RecipeError: the recipe does not ask for it.
    """
    if not recipe.correct_tokens:
        raise RecipeError(
            "The recipe corrects no teacher beforehand.", "Add the section `correct` with `when: before`."
        )
    inputs = Inputs(recipe, out)

    def work(folder: Path) -> None:
        correct_teacher(inputs, out=folder)

    _stage(CORRECT, recipe, out, inputs, work)


def score_stage(recipe: CompressRecipe, out: Path) -> None:
    """Measure the importance of every unit, by default in one forward pass over calibration rows."""
    if recipe.correct_tokens:
        require(out, CORRECT)
    inputs = Inputs(recipe, out)

    def work(folder: Path) -> None:
        importance.score_teacher(inputs, folder)

    _stage(SCORE, recipe, out, inputs, work)


def choose_stage(recipe: CompressRecipe, out: Path) -> None:
    """Rank the shapes inside the budget, by default after a short distillation of each."""
    require(out, SCORE)
    inputs = Inputs(recipe, out)

    def work(folder: Path) -> None:
        scored = importance.load(out / SCORE)
        _write_json(folder / "candidates.json", rank(recipe, inputs, scored, folder=folder))

    _stage(CHOOSE, recipe, out, inputs, work)


def trim_stage(recipe: CompressRecipe, out: Path) -> None:
    """Cut the teacher to the chosen shape, folder to folder."""
    require(out, CHOOSE)
    inputs = Inputs(recipe, out)

    def work(folder: Path) -> None:
        ranking = json.loads((out / CHOOSE / "candidates.json").read_text())
        sizes = next(c["sizes"] for c in ranking["candidates"] if c["chosen"])
        cut(inputs, importance.load(out / SCORE), sizes, folder / "model", depth_folder=out / CHOOSE)

    _stage(TRIM, recipe, out, inputs, work)


def distill_stage(recipe: CompressRecipe, out: Path) -> None:
    """Teach the trimmed model: forward KL on logits (arXiv 2408.11796, section 3)."""
    require(out, TRIM)
    inputs = Inputs(recipe, out)

    def work(folder: Path) -> None:
        trimmed = out / TRIM / "model"
        check_same_tokenizer(inputs.distill_teacher_folder, trimmed)
        student = inputs.load_student(trimmed)
        teach(inputs, student, files_from=trimmed, out=folder, label="distil", corrected=folder / "corrected")

    _stage(DISTILL, recipe, out, inputs, work)


def evaluate_stage(recipe: CompressRecipe, out: Path) -> None:
    """Teacher, trimmed and distilled side by side, and the same shape from random weights if asked for.

    With `distill.teacher` that is the teacher, and "parent" the model that was cut.
    """
    require(out, DISTILL)
    inputs = Inputs(recipe, out)

    def work(folder: Path) -> None:
        models = {"teacher": inputs.original_folder}
        if recipe.distill.teacher is not None:
            models = {"teacher": inputs.distill_teacher_folder, "parent": inputs.original_folder}
        if recipe.corrects_alongside:
            models["corrected"] = out / DISTILL / "corrected"
        elif recipe.correct_tokens:
            models["corrected"] = inputs.teacher_folder
        models |= {"trimmed": out / TRIM / "model", "distilled": out / DISTILL / "model"}
        _write_json(folder / "results.json", compare(recipe, inputs, models, folder=folder))

    _stage(EVALUATE, recipe, out, inputs, work)


@processes.main_only
def report(out: Path) -> None:
    """One page about the run, and the model card of the student."""
    write_product_card(out, "compress")
    write_report(out)


def stage_inputs(recipe: CompressRecipe, inputs: Inputs) -> dict[str, dict[str, Any]]:
    """What each stage depends on: its sections of the recipe, and all that the stages before depend on."""
    resolved = recipe.model_dump(mode="json")
    sections = {
        CORRECT: ("correct", "distill", "seed"),
        SCORE: ("score", "seed"),
        CHOOSE: ("choose", "depth", "trim", "distill"),
        TRIM: (),
        DISTILL: ("distill", "correct"),
        EVALUATE: ("evaluate", "report"),
    }
    depends: dict[str, dict[str, Any]] = {}
    before = facts = inputs.facts()
    for name in ORDER if recipe.correct_tokens else ORDER[1:]:
        depends[name] = {section: resolved[section] for section in sections[name]} | {
            "earlier stages": input_hash(before)
        }
        if before is facts:
            depends[name] |= facts
        if name == CHOOSE:
            depends[name] |= inputs.taught_by()
        before = depends[name]
    return depends


def _stage(name: str, recipe: CompressRecipe, out: Path, inputs: Inputs, work: Any) -> None:
    depends = _begin(recipe, out, inputs)
    stage(out, name, depends[name], work, together=True)


@processes.main_only
def _begin(recipe: CompressRecipe, out: Path, inputs: Inputs) -> dict[str, dict[str, Any]]:
    depends = stage_inputs(recipe, inputs)
    if recipe.distill.cache is not None:
        check_cache(inputs)
    begin(out, recipe, inputs.facts() | inputs.taught_by(), depends)
    return depends


@processes.main_only
def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1))
