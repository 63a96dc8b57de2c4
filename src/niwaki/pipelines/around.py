"""What the recipe's `trim` section means for one teacher: what is counted, what is refused, what is done.

A cut is: select -> (rotate, head residual) -> trim -> (rescale) -> (repair). The part before the trim works
on tensors as they pass; the part after it on the small model in memory, which is then saved again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.family import Family, family_of
from niwaki.pipelines.basis import stream_basis
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.edit import Edit
from niwaki.pruning.importance import Importance
from niwaki.pruning.repair import repair
from niwaki.pruning.rescale import rescale_norms
from niwaki.pruning.residual import head_residual, pairs
from niwaki.pruning.rotate import check_rotatable, rotation
from niwaki.recipe.compress import CompressRecipe

_BATCH_ROWS = 8
_MEASURED_TOKENS = 8_192
# Rows of a repair: so many tokens for every input of the widest matrix.
_TOKENS_PER_INPUT = 32


def is_rotated(recipe: CompressRecipe, family: Family) -> bool:
    """Whether hidden cuts are made after a rotation; `auto`: where that costs no parameters."""
    if recipe.trim.rotate == "auto":
        return not family.tied and not family.no_rotation
    return recipe.trim.rotate


def counted(recipe: CompressRecipe, family: Family, sizes: Mapping[str, int]) -> Family:
    """The table that counts students of a teacher of these sizes right: a rotation unties embeddings.

    Raises FamilyError when a rotation is asked for and this family cannot be rotated.
    """
    if not is_rotated(recipe, family):
        return family
    check_rotatable(family)
    return replace(family, head_apart_below=sizes["hidden"])


def check_head_residual(
    recipe: CompressRecipe, teacher: Mapping[str, int], shapes: Sequence[Mapping[str, int]]
) -> None:
    """Raise RecipeError when a head residual is asked for and a shape loses more heads than it keeps."""
    if recipe.trim.head_residual != "none":
        for shape in shapes:
            pairs(teacher["group"], shape["group"])


def edits_of(
    inputs: Inputs, importance: Importance, keep: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[Edit], Tensor | None]:
    """What to keep, what to do before the cut, and the basis of the hidden stream if it is rotated.

    Collective.
    """
    recipe, folder = inputs.recipe, inputs.teacher_folder
    family = family_of(inputs.teacher_checkpoint.config)
    edits: list[Edit] = []
    if recipe.trim.head_residual != "none" and "group" in keep:
        edits.append(
            head_residual(
                folder,
                importance=importance["group"],
                num_kept=keep["group"].shape[-1],
                direction=recipe.trim.head_residual,
            )
        )
    if "hidden" not in keep or not is_rotated(recipe, family):
        return keep, edits, None
    basis = stream_basis(inputs)
    edits.append(rotation(folder, basis))
    return keep | {"hidden": torch.arange(len(keep["hidden"]))}, edits, basis


def needs_memory(recipe: CompressRecipe, keep: Mapping[str, Tensor]) -> bool:
    """Whether anything is to be done after the cut, with the student in memory."""
    return recipe.trim.repair or ("hidden" in keep and recipe.trim.rescale is not False)


def mend(
    inputs: Inputs, student: PreTrainedModel, keep: Mapping[str, Tensor], basis: Tensor | None
) -> dict[str, Any]:
    """Rescale and repair a trimmed student in place, as the recipe says; return what was done and measured.

    Collective: every process mends a student of its own, with the sums of all, to the same weights.

    The losses are nats of KL(teacher || student) per token of training text: `cut`, then `rescaled` and
    `repaired` where they were tried.
    """
    recipe = inputs.recipe
    teacher = inputs.load_or_stream(inputs.teacher_folder)

    def loss() -> float:
        # Of training text, in an order that is not the one of the calibration rows.
        rows = max(2, min(recipe.score.num_samples, _MEASURED_TOKENS // recipe.data.sequence_length_tokens))
        found = held_out_loss(student, inputs.train, num_rows=rows, batch_rows=_BATCH_ROWS, teacher=teacher)
        assert found.kl_to_teacher is not None
        return found.kl_to_teacher.mean

    losses = {"cut": loss()}
    done: dict[str, Any] = {"rescale": None, "kl_to_teacher": losses}
    if "hidden" in keep and recipe.trim.rescale is not False:
        hidden = family_of(teacher.config).axis_sizes(teacher.config)["hidden"]
        factor = (hidden / len(keep["hidden"])) ** 0.5
        rescale_norms(student, factor)
        losses["rescaled"] = loss()
        done["rescale"] = factor
        if recipe.trim.rescale == "auto" and losses["rescaled"] >= losses["cut"]:
            rescale_norms(student, 1 / factor)
            done["rescale"] = None
    if recipe.trim.repair:
        num_rows = repair_rows(recipe, family_of(student.config).axis_sizes(student.config))
        batch_rows = max(1, min(recipe.score.batch_rows, num_rows // 4))
        repairs = repair(
            student,
            teacher,
            inputs.calibration,
            keep=keep,
            num_samples=num_rows,
            batch_rows=batch_rows,
            basis=basis,
        )
        losses["repaired"] = loss()
        done["repairs"] = [asdict(each) for each in repairs]
    return done


def repair_rows(recipe: CompressRecipe, student: Mapping[str, int]) -> int:
    """Rows that a student of these sizes is repaired on."""
    heads = student["kv"] * student["group"] * student["dim"]
    widest = max(student["hidden"], student.get("ffn", 0), heads)
    wanted = math.ceil(_TOKENS_PER_INPUT * widest / recipe.data.sequence_length_tokens)
    return max(2, min(recipe.score.num_samples, wanted))
