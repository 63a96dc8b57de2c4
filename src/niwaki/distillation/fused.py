"""Losses of a linear head that never hold the logits of a batch.

In: hidden states and heads. Out: the loss as a sum over tokens, and on `backward` its gradients. The
logits of a few hundred tokens exist at a time. Their gradient is taken at once, in the forward pass, and
only the gradients of hidden states and head are kept, so nothing is computed twice and `backward` merely
scales. What remains is close to the matrix products themselves (benchmarks/fused_kl).

A `Criterion` says which loss (`criteria` has ours). The walk over chunks, the head and its gradients know
nothing of it.

Shapes: N tokens that count, V vocabulary, D hidden size; C tokens of a chunk (whose logits exist at the
same time), R of a block (small enough for the elementwise passes to stay in the processor's cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from niwaki.distillation.criteria import CrossEntropy, LogitLoss, ToTeacher
from niwaki.distillation.projection import Projection, wide, wide_dtype
from niwaki.ground.head import Head

CHUNK_TOKENS = 256
_BLOCK_ELEMENTS = 2**18


def linear_kl(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    mask: Tensor,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """Sum of KL(teacher || student) over the tokens in `mask`, in nats (Minitron, section 2.4: Llogits).

    Equals `losses.forward_kl` of the logits, summed. Gradients go to the student alone, in fp32 or better
    up to the last cast. Under autocast the matrix products run in its dtype. Tokens outside the mask cost
    nothing. The result can be differentiated once: `backward` scales the gradients where they lie.

    Args:
        student_hidden: [.., Ds], the input of the head.
        teacher_hidden: [.., Dt]; any width, any dtype.
        mask: [..] bool.
        chunk_tokens: C. Memory grows with it; below 128 the matrix products slow down.
    """
    criterion = ToTeacher(teacher_hidden[mask], teacher_head)
    total, _ = reduce_tokens(student_hidden[mask], student_head, criterion, chunk_tokens=chunk_tokens)
    return total


def linear_cross_entropy(
    hidden: Tensor, head: Head, targets: Tensor, mask: Tensor, *, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """Sum of the cross-entropy over the tokens in `mask`, in nats.

    Args:
        hidden: [.., D], the input of the head.
        targets: [..] int64.
        mask: [..] bool. Targets outside it are never read.
        chunk_tokens: as in `linear_kl`, like all that is said there of gradients and autocast.
    """
    total, _ = reduce_tokens(hidden[mask], head, CrossEntropy(targets[mask]), chunk_tokens=chunk_tokens)
    return total


def linear_distillation(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    targets: Tensor,
    mask: Tensor,
    *,
    loss: LogitLoss = "forward_kl",
    temperature: float = 1.0,
    top_k: int | None = None,
    jsd_beta: float = 0.5,
    lm_weight: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Any logit loss to a teacher, mixed with `lm_weight` times the cross-entropy on the text.

    Equals the function of that name in `losses`, summed; gradients, autocast and masks as in `linear_kl`.

    Args:
        targets: [..] int64. Targets outside the mask are never read.
        loss, temperature, top_k: which loss; see `losses`.
        jsd_beta: `beta` of `losses.jensen_shannon`; the others have none.
        lm_weight: weight of the cross-entropy beside the loss, 0 in both papers' best setting.

    Returns:
        The total, with its gradient; the loss alone and the cross-entropy alone, which have none and cost
        next to nothing.
    """
    criterion = ToTeacher(
        teacher_hidden[mask],
        teacher_head,
        targets[mask],
        loss=loss,
        temperature=temperature,
        top_k=top_k,
        jsd_beta=jsd_beta,
        lm_weight=lm_weight,
    )
    total, sums = reduce_tokens(
        student_hidden[mask],
        student_head,
        criterion,
        chunk_tokens=chunk_tokens,
        of_logits=criterion.of_logits,
    )
    return total, sums[-2], sums[-1]


class Criterion(Protocol):
    """A loss that is a function of each token's log-probabilities. Only its first row has a gradient.

    With `reduce_tokens(of_logits=True)` it reads the logits themselves in their place.
    """

    num_losses: int

    def start_chunk(self, tokens: slice) -> None:
        """Prepare for the blocks of these tokens."""
        ...

    def losses(self, log_probs: Tensor, /, tokens: slice, *, gradient: bool) -> Tensor:
        """[num_losses, R] losses of [R, V] log-probabilities.

        With `gradient`, leaves the gradient of the first loss by the *logits* in `log_probs`.
        """
        ...


class _Gradients:
    """Gradients of hidden states, weight and bias: None where nobody asked."""

    def __init__(self, projection: Projection, needed: tuple[bool, bool, bool]) -> None:
        hidden, weight, bias = projection.hidden, projection.weight, projection.bias
        summed_in = wide_dtype(weight.dtype)
        self.projection = projection
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight, dtype=summed_in) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=summed_in) if needed[2] and bias is not None else None

    def add(self, tokens: slice, products_grad: Tensor) -> None:
        """Carry the gradient of one chunk's products [C, V] back through the linear map."""
        hidden = self.projection.hidden[tokens]
        if self.hidden is not None:
            torch.mm(products_grad, self.projection.weight, out=self.hidden[tokens])
        if self.weight is not None and self.weight.dtype == hidden.dtype:
            self.weight.addmm_(products_grad.T, hidden)
        elif self.weight is not None:
            self.weight.add_(products_grad.T @ hidden)
        if self.bias is not None:
            self.bias.add_(products_grad.sum(dim=0, dtype=self.bias.dtype))


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        criterion: Criterion,
        chunk_tokens: int,
        of_logits: bool,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        projection = Projection(hidden, head)
        gradients = _Gradients(projection, ctx.needs_input_grad[:3]) if grad_enabled else None
        with torch.autocast(hidden.device.type, enabled=False):
            sums = _walk(projection, criterion, gradients, chunk_tokens, of_logits)
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
            ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        total = sums[0].clone()
        ctx.mark_non_differentiable(sums)
        return total, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # In place, because the head's gradient is as large as the head. A second backward through the
        # same graph is refused by autograd, which sees that a saved tensor has changed.
        scaled = (
            None if grad is None else grad.mul_(grad_total).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None, None, None


def reduce_tokens(
    hidden: Tensor,
    head: Head,
    criterion: Criterion,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    of_logits: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sum a criterion over all tokens of `hidden` [N, D], the input of `head`.

    Args:
        criterion: called for one block of tokens after another, in order.
        of_logits: the criterion reads logits, where otherwise it reads log-probabilities.

    Returns:
        The sum of its first loss, with gradients to `hidden` and the head; and [num_losses] sums without.
    """
    total, sums = _LinearLoss.apply(
        hidden, head.weight, head.bias, head, criterion, chunk_tokens, of_logits, torch.is_grad_enabled()
    )
    return total, sums


def _walk(
    projection: Projection,
    criterion: Criterion,
    gradients: _Gradients | None,
    chunk_tokens: int,
    of_logits: bool,
) -> Tensor:
    """[num_losses] sums over all tokens; adds to `gradients` on the way."""
    num_tokens, (vocab, _) = len(projection.hidden), projection.weight.shape
    on_cpu = projection.hidden.device.type == "cpu"
    block_tokens = max(1, _BLOCK_ELEMENTS // vocab) if on_cpu else chunk_tokens
    losses = projection.hidden.new_empty(
        (criterion.num_losses, num_tokens), dtype=wide_dtype(projection.dtype)
    )
    for chunk in _slices(0, num_tokens, chunk_tokens):
        products = projection.products(chunk)
        criterion.start_chunk(chunk)
        for tokens in _slices(chunk.start, chunk.stop, block_tokens):
            block = products[tokens.start - chunk.start : tokens.stop - chunk.start]
            logits = projection.head.finish(wide(block))
            scores = logits if of_logits else torch.log_softmax(logits, dim=-1)
            if of_logits and projection.head.softcap is not None:
                scores = logits.clone()  # the way back through the cap needs them
            losses[:, tokens] = criterion.losses(scores, tokens, gradient=gradients is not None)
            if gradients is not None:
                block.copy_(_unfinish(scores, logits, projection.head))
        if gradients is not None:
            gradients.add(chunk, products)
    return losses.sum(dim=1)


def _unfinish(logits_grad: Tensor, logits: Tensor, head: Head) -> Tensor:
    """The gradient before `Head.finish`, from the one behind it, which is overwritten."""
    if head.softcap is not None:
        logits_grad.addcmul_(logits_grad, (logits / head.softcap).square_(), value=-1)
    return logits_grad.mul_(head.scale) if head.scale != 1.0 else logits_grad


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, stop)) for i in range(start, stop, step))
