"""Train a student on what its teacher would say: by default forward KL on logits, no LM loss (Minitron 2.5).

In: two models that share a tokenizer, and rows of text. Out: the student trained in place, and what
`ground.loop.fit` writes. The losses here are functions `loss(model, batch)` for that loop, which calls
them inside the module it trains, so the hooks of DDP and FSDP2 run around student, head and loss. The
teacher stays outside: it is in no optimiser, no snapshot and no gradient bucket.

Shapes: B rows, S positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.distillation.criteria import LogitLoss, check_options
from niwaki.distillation.fused import linear_cross_entropy, linear_distillation
from niwaki.errors import CheckpointError
from niwaki.ground.head import Head, check_head, split_head
from niwaki.ground.loop import FitResult, Loss, RowSource, fit
from niwaki.ground.model import load_tokenizer
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
    **options: Any,
) -> FitResult:
    """Train `student` in place towards `teacher`, by default with forward KL on logits at temperature 1.

    The teacher computes in its own dtype, without gradients, on the device of the batch.

    Args:
        rows: text in the tokens of both; each micro-batch goes through both models.
        loss, temperature, top_k, jsd_beta: of the logits; see `fused.linear_distillation`.
        lm_weight: weight of the cross-entropy on the text beside it.
        options: the other keyword arguments of `ground.loop.fit`, which says what all of them mean.

    Raises:
        CheckpointError: the vocabularies differ in size, or a head is not as `ground.head` describes it.
        RecipeError: options of the loss that cannot work.
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
    return fit(
        student,
        rows,
        distillation_loss(teacher, **of_logits, lm_weight=lm_weight),
        out=out,
        num_steps=num_steps,
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        learning_rate=learning_rate,
        **{"label": "distillation", **options},
    )


def distillation_loss(teacher: PreTrainedModel, *, loss: LogitLoss = "forward_kl", **options: Any) -> Loss:
    """The loss to a live teacher; `cross_entropy` on the text is reported beside it.

    Args:
        options: the other options of `fused.linear_distillation`.
    """
    teacher.eval()
    name = "kl" if loss == "forward_kl" else loss

    def to_teacher(student: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        teacher.to(batch["inputs"].device)
        with torch.no_grad():
            teacher_hidden, teacher_head = hidden_states(teacher, batch["inputs"])
        student_hidden, student_head = hidden_states(student, batch["inputs"])
        models = student_hidden, student_head, teacher_hidden, teacher_head
        total, divergence, cross_entropy = linear_distillation(
            *models, batch["targets"], batch["mask"], loss=loss, **options
        )
        return total, {name: divergence, "cross_entropy": cross_entropy}

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
    teacher, student = _tokenizer_hash(teacher_path), _tokenizer_hash(student_path)
    if teacher != student:
        raise CheckpointError(
            f"The tokenizers of teacher {str(teacher_path)!r} (hash {teacher[:12]}) and student "
            f"{str(student_path)!r} (hash {student[:12]}) differ; a token must mean the same to both.",
            "Copy the teacher's tokenizer files to the student if it was made from this teacher, or choose "
            "another pair.",
        )


def _tokenizer_hash(path: str | Path) -> str:
    """Of everything that decides how text becomes tokens; padding and truncation are up to the caller."""
    tokenizer = load_tokenizer(path)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    rules |= {"padding": None, "truncation": None, "vocabulary": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
