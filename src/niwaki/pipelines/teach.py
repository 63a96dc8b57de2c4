"""The long distillation: a student in, a checked Hugging Face folder out."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from niwaki.distillation.train import distill
from niwaki.ground.saved import save_model
from niwaki.pipelines.inputs import Inputs


def teach(inputs: Inputs, student: PreTrainedModel, *, files_from: Path, out: Path, label: str) -> Path:
    """Distil `student` with the recipe's settings; save it as `out / "model"` and return that.

    `files_from` is the model folder whose tokenizer and other files go with it. Checkpoints in `out` are
    what a killed training goes on from, and are removed at the end.
    """
    finished, old = out / "model", out / "checkpoints.old"
    shutil.rmtree(old, ignore_errors=True)
    if finished.exists() and not (out / "checkpoints").exists():
        return finished
    teacher = inputs.load(inputs.distill_teacher_folder)
    options = inputs.training(inputs.recipe.num_steps)
    distill(student, teacher, inputs.train, out=out, label=label, **options)
    save_model(student.to(inputs.saved_dtype), files_from, finished, replace=True)
    # Renamed first: a kill while they are removed must leave no half of a checkpoint to go on from.
    (out / "checkpoints").rename(old)
    shutil.rmtree(old)
    return finished
