"""Correct the teacher: fine-tune it, unpruned, on the text that its student will learn from.

arXiv 2408.11796, section 3: a teacher that has not seen this text gives worse guidance on it. Either it is
corrected first (`correct`), or in the same training in which the student learns from it
(`distill_and_correct`).

In: a teacher, and for the second a student. Out: both trained in place, and what `ground.loop.fit` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.distillation.fused import linear_cross_entropy, linear_distillation
from niwaki.distillation.train import check_same_vocabulary, hidden_states, next_token_loss
from niwaki.ground.head import check_head
from niwaki.ground.loop import FitResult, RowSource, fit
from niwaki.ground.stream import Batch


def correct(
    teacher: PreTrainedModel,
    rows: RowSource,
    *,
    out: Path,
    num_steps: int,
    batch_rows: int,
    micro_rows: int,
    learning_rate: float,
    **options: Any,
) -> FitResult:
    """Train `teacher` in place to predict the next token of the text.

    Args:
        learning_rate: the peak; the paper takes a fifth of that of the teacher's own training.
        options: the other keyword arguments of `ground.loop.fit`, which says what all of them mean.

    Raises:
        CheckpointError: the head is not as `ground.head` describes it.
        TrainingError: see `fit`.
    """
    check_head(teacher)
    return fit(
        teacher,
        rows,
        next_token_loss,
        out=out,
        num_steps=num_steps,
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        learning_rate=learning_rate,
        **{"label": "correction", **options},
    )


def distill_and_correct(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    rows: RowSource,
    *,
    out: Path,
    num_steps: int,
    batch_rows: int,
    micro_rows: int,
    learning_rate: float,
    teacher_learning_rate: float,
    **options: Any,
) -> FitResult:
    """Train both in place: the teacher on the text, the student towards the teacher as it is at that step.

    One forward pass of the teacher serves both losses, and nothing of the student's reaches it. Each is
    clipped on its own, so the teacher goes the way that it would go alone. Snapshots hold both.

    Args:
        teacher_learning_rate: its peak; it follows the course of the student's.
        options: the other keyword arguments of `ground.loop.fit`, which says what all of them mean.

    Raises:
        CheckpointError: the vocabularies differ in size, or a head is not as `ground.head` describes it.
        TrainingError: see `fit`.
    """
    check_same_vocabulary(student, teacher)
    for model in (student, teacher):
        check_head(model)
    return fit(
        _Lesson(student, teacher),
        rows,
        _learn_and_correct,
        out=out,
        num_steps=num_steps,
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        learning_rate=learning_rate,
        rate_factors={"student": 1.0, "teacher": teacher_learning_rate / learning_rate},
        **{"label": "distillation", **options},
    )


class _Lesson(nn.Module):
    """Both models as one module, for one optimiser and one snapshot. The teacher answers without dropout."""

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()
        return self


def _learn_and_correct(lesson: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    inputs, targets, mask = batch["inputs"], batch["targets"], batch["mask"]
    teacher_hidden, teacher_head = hidden_states(lesson.get_submodule("teacher"), inputs)
    student_hidden, student_head = hidden_states(lesson.get_submodule("student"), inputs)
    kl, _, cross_entropy = linear_distillation(
        student_hidden, student_head, teacher_hidden, teacher_head, targets, mask
    )
    of_teacher = linear_cross_entropy(teacher_hidden, teacher_head, targets, mask)
    metrics = {
        "kl": kl.detach(),
        "cross_entropy": cross_entropy,
        "teacher_cross_entropy": of_teacher.detach(),
    }
    return kl + of_teacher, metrics
