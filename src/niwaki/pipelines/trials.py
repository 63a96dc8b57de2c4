"""Try the candidate shapes: trim each, measure it, distil it for a short while, rank.

Minitron ranks by loss after a short distillation (arXiv 2407.14679, section 2.3); what `choose` and `halve`
need for that, a function from a shape to a `Trial`, is put together here from the stages.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from niwaki.evaluation.loss import held_out_loss
from niwaki.ground import processes
from niwaki.ground.metrics import read_metrics
from niwaki.ground.model import count_parameters
from niwaki.pipelines.amounts import trial_rungs
from niwaki.pipelines.cut import cut
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.plan import find_candidates, request_of
from niwaki.pipelines.ranking import ranking, say
from niwaki.pipelines.stopwatch import stopwatch
from niwaki.pipelines.teach import learn
from niwaki.pruning.choose import Choice, choose
from niwaki.pruning.halving import halve
from niwaki.pruning.importance import Importance
from niwaki.pruning.trial import Trial
from niwaki.recipe.compress import CompressRecipe

_BATCH_ROWS = 8
LATENCIES = "latencies.json"


def rank(recipe: CompressRecipe, inputs: Inputs, importance: Importance, *, folder: Path) -> dict[str, Any]:
    """Rank the shapes inside the recipe's budget and limits; what `folder` holds finished is not repeated.

    Returns:
        What `pipelines.ranking.ranking` makes of the trials.
    """
    config = inputs.teacher_checkpoint.config
    latency_s = None
    if recipe.choose.device == "here":
        latency_s = stopwatch(config, request_of(recipe), record=folder / LATENCIES)
    shapes = processes.by_main(lambda: find_candidates(recipe, config, latency_s=latency_s))
    choice = _try_all(recipe, inputs, importance, shapes, folder=folder)
    found = processes.by_main(lambda: ranking(recipe, config, choice, latency_s=latency_s))
    say(found)
    return found


def _try_all(
    recipe: CompressRecipe,
    inputs: Inputs,
    importance: Importance,
    shapes: list[dict[str, int]],
    *,
    folder: Path,
) -> Choice:
    rungs = trial_rungs(recipe)
    trials = folder / "trials"

    def place(sizes: dict[str, int]) -> Path:
        return trials / f"{shapes.index(sizes) + 1}"

    def drop(sizes: dict[str, int]) -> None:
        processes.by_main(lambda: shutil.rmtree(place(sizes), ignore_errors=True))

    def try_until(sizes: dict[str, int], until_step: int, so_far: Trial | None) -> Trial:
        label = f"trial {shapes.index(sizes) + 1}/{len(shapes)}"
        trial = _try(
            recipe, inputs, importance, sizes, so_far, folder=place(sizes), label=label, until_step=until_step
        )
        if until_step == rungs[-1]:
            drop(sizes)
        return trial

    file = folder / "trials.jsonl"
    if recipe.choose.halving:
        choice = halve(shapes, try_until, drop, rungs=rungs, trials_file=file)
    else:
        choice = choose(shapes, lambda sizes: try_until(sizes, rungs[-1], None), trials_file=file)
    processes.by_main(lambda: shutil.rmtree(trials, ignore_errors=True))
    return choice


def _try(
    recipe: CompressRecipe,
    inputs: Inputs,
    importance: Importance,
    sizes: dict[str, int],
    so_far: Trial | None,
    *,
    folder: Path,
    label: str,
    until_step: int,
) -> Trial:
    """Trim a shape and train it up to a step; what `folder` holds of that is not repeated."""
    _cut_once(inputs, importance, sizes, folder)
    student = inputs.load_student(folder / "model")
    before = _held_out_loss(student, inputs) if so_far is None else so_far.loss_before
    trial = Trial(sizes, count_parameters(student), before, seed=recipe.seed)
    if recipe.choose.rank == "loss":
        return trial
    options = inputs.training(recipe.steps(recipe.trial_tokens))
    options |= {"until_step": until_step, "keep_snapshots": 1}
    learn(inputs, student, out=folder, label=label, **options)
    key = "held_out_cross_entropy"
    curve = tuple((r["step"], r[key]) for r in read_metrics(folder / "metrics.jsonl") if key in r)
    trained = {"loss_after": _held_out_loss(student, inputs), "loss_curve": curve, "num_steps": until_step}
    return Trial(**{**vars(trial), **trained})


def _cut_once(inputs: Inputs, importance: Importance, sizes: dict[str, int], folder: Path) -> None:
    if not processes.by_main((folder / "model").exists):
        processes.by_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        cut(inputs, importance, sizes, folder / "model", depth_folder=folder.parent.parent)


def _held_out_loss(student: PreTrainedModel, inputs: Inputs) -> float:
    """Nats per token on the same rows for every candidate."""
    rows = inputs.num_held_out_rows
    return held_out_loss(student, inputs.held_out, num_rows=rows, batch_rows=_BATCH_ROWS).nats_per_token.mean
