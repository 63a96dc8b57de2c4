"""Try the candidate shapes: trim each, measure it, distil it for a short while, rank.

Minitron ranks by loss after a short distillation (arXiv 2407.14679, section 2.3); what `choose` needs for
that, a function from a shape to a `Trial`, is put together here from the stages.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from niwaki.distillation.train import distill
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.family import family_of
from niwaki.ground.metrics import read_metrics
from niwaki.ground.model import count_parameters
from niwaki.pipelines.cut import cut
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.plan import find_candidates
from niwaki.pruning.choose import Trial, choose
from niwaki.pruning.scores import Scores
from niwaki.recipe.compress import CompressRecipe

_BATCH_ROWS = 8


def rank(recipe: CompressRecipe, inputs: Inputs, scores: Scores, *, folder: Path) -> dict[str, Any]:
    """Rank the shapes inside the recipe's budget; finished trials in `folder` are not repeated.

    Returns:
        {"budget", "teacher": {"sizes", "num_parameters"}, "rank", "candidates": best first, one "chosen"}.
    """
    config = inputs.teacher_checkpoint.config
    shapes = find_candidates(recipe, config)

    def trial(sizes: dict[str, int]) -> Trial:
        label = f"trial {shapes.index(sizes) + 1}/{len(shapes)}"
        return _try(recipe, inputs, scores, sizes, folder=folder / "trial", label=label)

    choice = choose(shapes, trial, trials_file=folder / "trials.jsonl")
    family = family_of(config)
    sizes = family.axis_sizes(config)
    return {
        "budget": recipe.model_dump(mode="json")["choose"],
        "teacher": {
            "sizes": sizes,
            "num_parameters": family.count(sizes, tied=bool(config.tie_word_embeddings)),
        },
        "rank": recipe.choose.rank,
        "candidates": [
            {
                "sizes": t.sizes,
                "num_parameters": t.num_parameters,
                "loss_before": t.loss_before,
                "loss_after": t.loss_after,
                "curve": t.loss_curve,
                "seed": t.seed,
                "chosen": t is choice.best,
            }
            for t in choice.trials
        ],
    }


def _try(
    recipe: CompressRecipe, inputs: Inputs, scores: Scores, sizes: dict[str, int], *, folder: Path, label: str
) -> Trial:
    shutil.rmtree(folder, ignore_errors=True)
    cut(inputs, scores, sizes, folder / "model", depth_folder=folder.parent)
    student = inputs.load_student(folder / "model")
    trial = Trial(sizes, count_parameters(student), _held_out_loss(student, inputs), seed=recipe.seed)
    if recipe.choose.rank == "distill":
        teacher = inputs.load(inputs.teacher_folder)
        num_steps = recipe.steps(recipe.trial_tokens)
        options = inputs.training(num_steps) | {"save_every_steps": num_steps}
        distill(
            student,
            teacher,
            inputs.train,
            out=folder,
            label=label,
            **options,
        )
        key = "held_out_cross_entropy"
        curve = tuple((r["step"], r[key]) for r in read_metrics(folder / "metrics.jsonl") if key in r)
        trial = Trial(**{**vars(trial), "loss_after": _held_out_loss(student, inputs), "loss_curve": curve})
    shutil.rmtree(folder)
    return trial


def _held_out_loss(student: PreTrainedModel, inputs: Inputs) -> float:
    """Nats per token on the same rows for every candidate."""
    rows = inputs.num_held_out_rows
    return held_out_loss(student, inputs.held_out, num_rows=rows, batch_rows=_BATCH_ROWS).nats_per_token.mean
