"""Who teaches and who is taught: the long distillation, the trials' short ones, the teacher's correction.

In: a model. Out: it has been trained; of the long trainings, a checked Hugging Face folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from niwaki.distillation.cached import distill_from_cache
from niwaki.distillation.correction import correct, distill_and_correct
from niwaki.distillation.train import distill
from niwaki.ground import processes
from niwaki.ground.parts import gather_model
from niwaki.ground.saved import save_model
from niwaki.pipelines.cached_teacher import cached_rows
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.trained import once
from niwaki.recipe.teacher import FORWARD_KL


def teach(
    inputs: Inputs,
    student: PreTrainedModel,
    *,
    files_from: Path,
    out: Path,
    label: str,
    corrected: Path | None = None,
) -> Path:
    """Distil `student` with the recipe's settings; save it as `out / "model"` and return that.

    `files_from` is the model folder whose tokenizer and other files go with it. Checkpoints in `out` are
    what a killed training goes on from, and are removed at the end. A teacher that is corrected alongside is
    saved as `corrected`, if that is given. Collective.
    """

    def train(folder: Path) -> None:
        options = inputs.training(inputs.recipe.num_steps)
        if inputs.recipe.corrects_alongside:
            teacher = _learn_and_correct(inputs, student, out=folder, label=label, **options)
            if corrected is not None:
                _save(inputs, teacher, inputs.original_folder, corrected)
        else:
            learn(inputs, student, out=folder, label=label, **options)
        _save(inputs, student, files_from, folder / "model")

    once(train)(out)
    return out / "model"


def learn(inputs: Inputs, student: PreTrainedModel, *, out: Path, label: str, **options: Any) -> None:
    """Distil `student` from the recipe's teacher, live or from its predictions on disk.

    `options` are the other keyword arguments of `distill`, as `Inputs.training` gives them.
    """
    if inputs.recipe.distill.cache is None:
        teacher = inputs.load_together(inputs.distill_teacher_folder)
        distill(student, teacher, inputs.train, out=out, label=label, **options)
        return
    rows, held_out = cached_rows(inputs)
    options = _without_losses(options) | {"held_out": held_out}
    distill_from_cache(student, rows, out=out, label=label, **options)


def correct_teacher(inputs: Inputs, *, out: Path) -> Path:
    """Fine-tune the recipe's teacher on the text, before all else; saved and returned as by `teach`."""

    def train(folder: Path) -> None:
        recipe, teacher = inputs.recipe, inputs.load_student(inputs.original_folder)
        num_steps = recipe.steps(recipe.correct_tokens)
        rate = _correction_rate(inputs)
        options = _without_losses(inputs.training(num_steps)) | {
            "learning_rate": rate,
            # The course of the distillation, at the correction's height.
            "min_learning_rate": rate * recipe.distill.min_learning_rate / recipe.distill.learning_rate,
            "warmup_steps": recipe.correct_warmup_steps(num_steps),
        }
        correct(teacher, inputs.train, out=folder, label="correct", **options)
        _save(inputs, teacher, inputs.original_folder, folder / "model")

    once(train)(out)
    return out / "model"


def _learn_and_correct(
    inputs: Inputs, student: PreTrainedModel, *, out: Path, label: str, **options: Any
) -> PreTrainedModel:
    teacher = inputs.load_student(inputs.original_folder)
    distill_and_correct(
        student,
        teacher,
        inputs.train,
        out=out,
        label=label,
        teacher_learning_rate=_correction_rate(inputs),
        **_without_losses(options),
    )
    return teacher


def _correction_rate(inputs: Inputs) -> float:
    assert inputs.recipe.correct is not None
    return inputs.recipe.correct.learning_rate


def _without_losses(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the loop alone; the recipe has been checked to ask for forward KL on logits."""
    return {name: value for name, value in options.items() if name not in FORWARD_KL}


def _save(inputs: Inputs, model: PreTrainedModel, files_from: Path, out: Path) -> None:
    whole = gather_model(model, inputs.saved_dtype)

    def save() -> None:
        assert whole is not None
        save_model(whole, files_from, out, replace=True)

    processes.by_main(save)
