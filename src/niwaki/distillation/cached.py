"""Train a student on a teacher's cached predictions, without the teacher.

In: a student, and rows with the predictions beside them (`cache.CachedRows`). Out: the student trained in
place. The loss is forward KL on logits, as in `train.distill`, right on average over the draws of the cache
(`sampled`); `cross_entropy` on the text is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.distillation.cache import CachedRows
from niwaki.distillation.sampled import linear_sampled_kl_and_cross_entropy
from niwaki.distillation.train import hidden_states
from niwaki.errors import CheckpointError
from niwaki.ground.head import check_head, split_head
from niwaki.ground.loop import FitResult, fit
from niwaki.ground.stream import Batch


def distill_from_cache(
    student: PreTrainedModel,
    rows: CachedRows,
    *,
    out: Path,
    num_steps: int,
    batch_rows: int,
    micro_rows: int,
    learning_rate: float,
    held_out: CachedRows | None = None,
    **options: Any,
) -> FitResult:
    """Train `student` in place towards the teacher whose predictions lie beside the rows.

    Args:
        held_out: evaluated with the same loss, so it needs the predictions too.
        options: the other keyword arguments of `ground.loop.fit`, which says what all of them mean.

    Raises:
        CheckpointError: the cache is of another vocabulary, or the student's head is not as `ground.head`
            describes it.
        TrainingError: see `fit`.
    """
    vocab_size = len(split_head(student)[1].weight)
    if vocab_size != rows.vocab_size:
        raise CheckpointError(
            f"The student's head has {vocab_size} tokens, the cached teacher's {rows.vocab_size}; they must "
            "be the same.",
            "Trim the student from this teacher.",
        )
    check_head(student)
    return fit(
        student,
        rows,
        cached_kl,
        out=out,
        num_steps=num_steps,
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        learning_rate=learning_rate,
        held_out=held_out,
        **{"label": "distillation", **options},
    )


def cached_kl(student: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss KL(teacher || student) from a batch of `CachedRows`; `cross_entropy` is reported beside it."""
    hidden, head = hidden_states(student, batch["inputs"])
    kl, cross_entropy = linear_sampled_kl_and_cross_entropy(
        hidden,
        head,
        batch["teacher_ids"],
        batch["teacher_weights"],
        batch["teacher_neg_entropy"],
        batch["targets"],
        batch["mask"],
    )
    return kl, {"kl": kl.detach(), "cross_entropy": cross_entropy}
