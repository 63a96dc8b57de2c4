"""How well a model predicts held-out text, and how far its predictions are from its teacher's.

In: a model and packed rows no training has seen. Out: nats per token, bits per byte and perplexity, and the
forward divergence KL(teacher || student) of minitron.md 2.4, with intervals over rows. Logits exist for
`CHUNK_TOKENS` positions at a time, never for a whole batch.

Shapes: B rows, S positions, N scored positions of a batch, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.errors import EvaluationError
from niwaki.evaluation.mode import evaluating
from niwaki.ground import processes
from niwaki.ground.head import Head, check_head, split_head
from niwaki.ground.layers import only_layers
from niwaki.ground.parts import is_in_parts
from niwaki.ground.spread import running
from niwaki.ground.stats import Interval, bootstrap_mean
from niwaki.ground.stream import Batch, Rows
from niwaki.ground.streamed import is_streamed, rows_at_once
from niwaki.ground.walk import decode

CHUNK_TOKENS = 256


@dataclass(frozen=True)
class HeldOut:
    """What `held_out_loss` measured.

    `row_nats` and `row_tokens` are its sums for each row, so that two models measured on the same rows can be
    compared with `paired_difference(a.row_nats, b.row_nats, counts=a.row_tokens)`.
    """

    nats_per_token: Interval
    perplexity: float
    bits_per_byte: Interval | None
    kl_to_teacher: Interval | None
    num_rows: int
    num_tokens: int
    row_nats: list[float]
    row_tokens: list[int]


def held_out_loss(
    model: PreTrainedModel,
    rows: Rows,
    *,
    num_rows: int,
    batch_rows: int,
    teacher: PreTrainedModel | None = None,
    bytes_per_token: float | None = None,
) -> HeldOut:
    """Mean next-token loss of `model` on the first `num_rows` of `rows` (all of them if there are fewer).

    Targets outside the mask count nowhere. The result does not depend on `batch_rows` beyond rounding.
    Collective: each of several processes takes part of the rows, and all get the same result.

    Args:
        model: a causal language model in any dtype; log-softmax is in float32.
        batch_rows: rows in one forward pass.
        teacher: adds nats of KL(teacher || model) for each token; must share the vocabulary.
        bytes_per_token: of this text under this tokenizer (`Tokens.bytes_per_token`); adds bits per byte.

    Raises:
        EvaluationError: fewer than two rows, another vocabulary, or a loss that is not finite.
        CheckpointError: logits that are not a linear head's (see `niwaki.ground.head`).
    """
    num_rows = min(num_rows, rows.num_rows)
    if num_rows < 2:
        raise EvaluationError(
            f"{num_rows} held-out rows give no interval; at least 2 were expected.",
            "Give more held-out text.",
        )
    if teacher is not None:
        _check_vocabularies(model, teacher)
    nats: list[float] = []
    divergences: list[float] = []
    counts: list[int] = []
    with ExitStack() as stack:
        models = [each for each in (model, teacher) if each is not None]
        for each in models:
            stack.enter_context(evaluating(each))
            stack.enter_context(running(each))
        stack.enter_context(torch.inference_mode())
        own = processes.my_part(num_rows, step=batch_rows)
        decoded = _decoded(model, rows, own, batch_rows)
        if any(map(is_in_parts, models)):
            decoded = chain(decoded, _along(model, rows, own, num_rows, batch_rows))
        for turn, (start, batch, hidden) in enumerate(decoded):
            row_nats, row_divergences = _row_sums(model, hidden, teacher, batch)
            _check_finite(row_nats, start)
            if turn == 0:  # after the first loss, so that NaN weights are reported as what they are
                _check_head(model)
            if start in own:
                nats += row_nats.tolist()
                divergences += row_divergences.tolist()
                counts += batch["mask"].sum(dim=1).tolist()
    measured = processes.gather((nats, divergences, counts))
    nats, divergences, counts = (
        [value for part in each for value in part] for each in zip(*measured, strict=True)
    )
    loss = bootstrap_mean(nats, counts=counts)
    return HeldOut(
        nats_per_token=loss,
        perplexity=math.exp(loss.mean),
        bits_per_byte=None if bytes_per_token is None else _scaled(loss, 1 / (math.log(2) * bytes_per_token)),
        kl_to_teacher=None if teacher is None else bootstrap_mean(divergences, counts=counts),
        num_rows=num_rows,
        num_tokens=sum(counts),
        row_nats=nats,
        row_tokens=counts,
    )


def _decoded(
    model: PreTrainedModel, rows: Rows, numbers: range, batch_rows: int
) -> Iterator[tuple[int, Batch, Tensor]]:
    """First row, batch and last hidden states at the scored positions [N, D], batch after batch."""
    row_tokens = rows.take(0, 1)["inputs"].shape[1]
    at_once = rows_at_once(model, batch_rows=batch_rows, row_tokens=row_tokens)
    for first in range(numbers.start, numbers.stop, at_once):
        end = min(first + at_once, numbers.stop)
        starts = range(first, end, batch_rows)
        batches = [rows.take(start, min(batch_rows, end - start)) for start in starts]
        arguments = [{"input_ids": batch["inputs"].to(model.device)} for batch in batches]
        for start, batch, hidden in zip(starts, batches, decode(model, arguments), strict=True):
            yield start, batch, hidden[batch["mask"].to(model.device)]


def _along(
    model: PreTrainedModel, rows: Rows, own: range, num_rows: int, batch_rows: int
) -> Iterator[tuple[int, Batch, Tensor]]:
    """Batches of other processes, until this one has run a model in parts as often as the first has."""
    num_batches = math.ceil(num_rows / batch_rows)
    num_turns = math.ceil(num_batches / processes.count()) - math.ceil(len(own) / batch_rows)
    for _ in range(num_turns):
        yield from _decoded(model, rows, range(min(batch_rows, num_rows)), batch_rows)


def _check_head(model: PreTrainedModel) -> None:
    # What follows the layers can be seen with one of them; a streamed model would read all of them.
    with only_layers(model, [0]) if is_streamed(model) else nullcontext():
        check_head(model)


def _row_sums(
    model: PreTrainedModel, hidden: Tensor, teacher: PreTrainedModel | None, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Sums over each row's scored positions: nats [B] and divergence from the teacher [B], float64."""
    mask, device = batch["mask"], model.device
    targets = batch["targets"][mask].to(device)  # [N]
    row_of = mask.nonzero()[:, 0].to(device)  # [N]
    nats = torch.zeros(len(mask), dtype=torch.float64, device=device)
    divergences = torch.zeros_like(nats)
    teacher_chunks = None if teacher is None else _log_probabilities(*_hidden_states(teacher, batch))
    for first, log_probabilities in enumerate(_log_probabilities(split_head(model)[1], hidden)):
        here = slice(first * CHUNK_TOKENS, (first + 1) * CHUNK_TOKENS)
        losses = F.nll_loss(log_probabilities, targets[here], reduction="none")
        nats.index_add_(0, row_of[here], losses.double())
        if teacher_chunks is not None:
            expected = next(teacher_chunks).to(device)
            divergence = F.kl_div(log_probabilities, expected, reduction="none", log_target=True).sum(-1)
            divergences.index_add_(0, row_of[here], divergence.double())
    return nats, divergences


def _hidden_states(model: PreTrainedModel, batch: Batch) -> tuple[Head, Tensor]:
    """The model's head, and its last hidden states at the scored positions: [N, D]."""
    backbone, head = split_head(model)
    hidden = backbone(input_ids=batch["inputs"].to(model.device), use_cache=False).last_hidden_state
    return head, hidden[batch["mask"].to(model.device)]


def _log_probabilities(head: Head, hidden: Tensor) -> Iterator[Tensor]:
    """[up to CHUNK_TOKENS, V] float32, chunk after chunk of `hidden` [N, D]."""
    for chunk in hidden.split(CHUNK_TOKENS):
        yield head.logits(chunk).float().log_softmax(-1)


def _check_vocabularies(model: PreTrainedModel, teacher: PreTrainedModel) -> None:
    student_size = model.config.get_text_config().vocab_size
    teacher_size = teacher.config.get_text_config().vocab_size
    if student_size != teacher_size:
        raise EvaluationError(
            f"the model predicts {student_size} tokens and its teacher {teacher_size}; "
            "the divergence needs one vocabulary.",
            "Use the teacher that the model was made from.",
        )


def _check_finite(row_nats: Tensor, start: int) -> None:
    if not row_nats.isfinite().all():
        row = start + int(row_nats.isfinite().long().argmin())
        raise EvaluationError(
            f"the held-out loss of row {row} is not finite.",
            "Look for NaN in the weights, or evaluate in bfloat16 or float32 if the model is in float16.",
        )


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.mean * factor, interval.low * factor, interval.high * factor)
