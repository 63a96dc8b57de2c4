"""Train a student on what its teacher would say: by default forward KL on logits, no LM loss (Minitron 2.5).

In: two models that share a tokenizer, and rows of text. Out: the student trained in place, and what
`ground.loop.fit` writes. The losses here are functions `loss(model, batch)` for that loop, which calls
them inside the module it trains, so the hooks of DDP and FSDP2 run around student, head and loss. The
teacher stays outside: it is in no optimiser, no snapshot and no gradient bucket.

Shapes: B rows, S positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.distillation.criteria import LogitLoss, check_options
from niwaki.distillation.fused import linear_cross_entropy, linear_distillation
from niwaki.distillation.hidden import HiddenLoss, Lifted, check_hidden, hidden_term, listening
from niwaki.errors import CheckpointError
from niwaki.ground.corpus import tokenizer_fingerprint
from niwaki.ground.head import Head, check_head, split_head
from niwaki.ground.loop import FitResult, Loss, RowSource, fit
from niwaki.ground.model import load_tokenizer
from niwaki.ground.spread import running
from niwaki.ground.stream import Batch


def distill(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    rows: RowSource,
    *,
    out: Path,
    num_steps: int,
    batch_rows: int,
    micro_rows: int,
    learning_rate: float,
    loss: LogitLoss = "forward_kl",
    temperature: float = 1.0,
    top_k: int | None = None,
    jsd_beta: float = 0.5,
    lm_weight: float = 0.0,
    hidden: HiddenLoss | None = None,
    **options: Any,
) -> FitResult:
    """Train `student` in place towards `teacher`, by default with forward KL on logits at temperature 1.

    The teacher computes in its own dtype, without gradients, on the device of the batch.

    Args:
        rows: text in the tokens of both; each micro-batch goes through both models.
        loss, temperature, top_k, jsd_beta: of the logits; see `fused.linear_distillation`.
        lm_weight: weight of the cross-entropy on the text beside it.
        hidden: brings hidden states together as well. With it the loop trains a `Lifted`, whose map is in the
            snapshots and not in the student.
        options: the other keyword arguments of `ground.loop.fit`, which says what all of them mean.

    Raises:
        CheckpointError: the vocabularies differ in size, or a head is not as `ground.head` describes it.
        RecipeError: options of the loss that cannot work, such as a layer map out of range.
        FamilyError: `hidden` for a family without an axis table.
        TrainingError: see `fit`.
    """
    check_same_vocabulary(student, teacher)
    of_logits: dict[str, Any] = {
        "loss": loss,
        "temperature": temperature,
        "top_k": top_k,
        "jsd_beta": jsd_beta,
    }
    check_options(**of_logits, vocab_size=len(split_head(teacher)[1].weight))
    for model in (student, teacher):
        check_head(model)
    trained: nn.Module = student
    if hidden is not None:
        check_hidden(hidden, student=student.config, teacher=teacher.config)
        trained = Lifted(student, teacher=teacher.config, seed=options.get("seed", 0))
    with running(teacher):
        return fit(
            trained,
            rows,
            distillation_loss(teacher, **of_logits, lm_weight=lm_weight, hidden=hidden),
            out=out,
            num_steps=num_steps,
            batch_rows=batch_rows,
            micro_rows=micro_rows,
            learning_rate=learning_rate,
            **{"label": "distillation", **options},
        )


def distillation_loss(
    teacher: PreTrainedModel,
    *,
    loss: LogitLoss = "forward_kl",
    hidden: HiddenLoss | None = None,
    **options: Any,
) -> Loss:
    """The loss to a live teacher, whose parts and the `cross_entropy` on the text are reported beside it.

    Args:
        hidden: with it, the module to be trained is a `Lifted`.
        options: the other options of `fused.linear_distillation`.
    """
    teacher.eval()
    name = "kl" if loss == "forward_kl" else loss

    def to_teacher(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        student = model if hidden is None else model.get_submodule("student")
        teacher.to(batch["inputs"].device)
        with torch.no_grad(), listening(teacher, hidden, role="teacher") as theirs:
            teacher_hidden, teacher_head = hidden_states(teacher, batch["inputs"])
        with listening(student, hidden, role="student") as ours:
            student_hidden, student_head = hidden_states(student, batch["inputs"])
        models = student_hidden, student_head, teacher_hidden, teacher_head
        total, divergence, cross_entropy = linear_distillation(
            *models, batch["targets"], batch["mask"], loss=loss, **options
        )
        metrics = {name: divergence, "cross_entropy": cross_entropy}
        if hidden is not None:
            lift = model.get_submodule("lift")
            term, parts = hidden_term(
                hidden, ours, theirs, lift=lift, mask=batch["mask"], logit_loss=divergence
            )
            total, metrics = total + term, metrics | parts
        return total, metrics

    return to_teacher


def next_token_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Cross-entropy on the text: the loss of a model that has no teacher."""
    hidden, head = hidden_states(model, batch["inputs"])
    cross_entropy = linear_cross_entropy(hidden, head, batch["targets"], batch["mask"])
    return cross_entropy, {"cross_entropy": cross_entropy.detach()}


def hidden_states(model: PreTrainedModel | nn.Module, inputs: Tensor) -> tuple[Tensor, Head]:
    """What goes into the head, [B, S, D], and the head, for `inputs` [B, S]."""
    backbone, head = split_head(model)
    return backbone(input_ids=inputs, use_cache=False).last_hidden_state, head


def check_same_vocabulary(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuse two heads that do not speak of the same tokens.

    Raises:
        CheckpointError: the heads have different numbers of rows.
    """
    ours, theirs = (len(split_head(model)[1].weight) for model in (student, teacher))
    if ours != theirs:
        raise CheckpointError(
            f"The student's head has {ours} tokens, the teacher's {theirs}; they must be the same.",
            "Trim the student from this teacher, or, where the rest is padding, give both the same size "
            "with `resize_token_embeddings`.",
        )


def check_same_tokenizer(teacher_path: str | Path, student_path: str | Path) -> None:
    """Refuse two model folders whose tokenizers could turn a text into different tokens.

    Raises:
        CheckpointError: they differ, or one is missing.
    """
    teacher, student = (tokenizer_fingerprint(load_tokenizer(path)) for path in (teacher_path, student_path))
    if teacher != student:
        raise CheckpointError(
            f"The tokenizers of teacher {str(teacher_path)!r} (hash {teacher}) and student "
            f"{str(student_path)!r} (hash {student}) differ; a token must mean the same to both.",
            "Copy the teacher's tokenizer files to the student if it was made from this teacher, or choose "
            "another pair.",
        )
