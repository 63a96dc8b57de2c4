"""Losses of a linear head that never hold the logits of a batch.

In: hidden states and heads. Out: the loss as a sum over tokens, and on `backward` its gradients. The
logits of a few hundred tokens exist at a time. Their gradient is taken at once, in the forward pass, and
only the gradients of hidden states and head are kept, so nothing is computed twice and `backward` merely
scales. What remains is close to the matrix products themselves (benchmarks/fused_kl).

A `Criterion` says which loss. The walk over chunks, the head and its gradients know nothing of it.

Shapes: N tokens that count, V vocabulary, D hidden size; C tokens of a chunk (whose logits exist at the
same time), R of a block (small enough for the elementwise passes to stay in the processor's cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    criterion = _ForwardKL(teacher_hidden[mask], teacher_head)
    total, _ = _reduce(student_hidden[mask], student_head, criterion, chunk_tokens)
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
    total, _ = _reduce(hidden[mask], head, _CrossEntropy(targets[mask]), chunk_tokens)
    return total


def linear_kl_and_cross_entropy(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    targets: Tensor,
    mask: Tensor,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """`linear_kl`, and the student's cross-entropy summed over the same tokens, which has no gradient.

    The second costs next to nothing, since the student's log-probabilities are there already.
    """
    criterion = _ForwardKL(teacher_hidden[mask], teacher_head, targets[mask])
    total, sums = _reduce(student_hidden[mask], student_head, criterion, chunk_tokens)
    return total, sums[1]


class Criterion(Protocol):
    """A loss that is a function of each token's log-probabilities. Only its first row has a gradient."""

    num_losses: int

    def start_chunk(self, tokens: slice) -> None:
        """Prepare for the blocks of these tokens."""
        ...

    def losses(self, log_probs: Tensor, tokens: slice, *, gradient: bool) -> Tensor:
        """[num_losses, R] losses of [R, V] log-probabilities.

        With `gradient`, leaves the gradient of the first loss by the *logits* in `log_probs`.
        """
        ...


class _CrossEntropy:
    num_losses = 1

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def start_chunk(self, tokens: slice) -> None:
        pass

    def losses(self, log_probs: Tensor, tokens: slice, *, gradient: bool) -> Tensor:
        targets = self.targets[tokens, None]
        losses = -log_probs.gather(-1, targets).T
        if gradient:
            log_probs.exp_().scatter_add_(-1, targets, log_probs.new_full(targets.shape, -1.0))
        return losses


class _ForwardKL:
    def __init__(self, hidden: Tensor, head: Head, targets: Tensor | None = None) -> None:
        self.projection = _Projection(hidden.detach(), head)
        self.cross_entropy = None if targets is None else _CrossEntropy(targets)
        self.num_losses = 1 if targets is None else 2

    def start_chunk(self, tokens: slice) -> None:
        self.first = tokens.start
        self.products = self.projection.products(tokens)

    def losses(self, log_probs: Tensor, tokens: slice, *, gradient: bool) -> Tensor:
        block = self.products[tokens.start - self.first : tokens.stop - self.first]
        log_teacher = torch.log_softmax(self.projection.head.finish(_wide(block)), dim=-1)
        teacher = log_teacher.exp()
        losses = log_teacher.sub_(log_probs).mul_(teacher).sum(dim=-1)[None]
        if self.cross_entropy is not None:
            losses = torch.cat([losses, self.cross_entropy.losses(log_probs, tokens, gradient=False)])
        if gradient:
            log_probs.exp_().sub_(teacher)
        return losses


class _Projection:
    """hidden @ weight.T + bias of one chunk after another, in one buffer."""

    def __init__(self, hidden: Tensor, head: Head) -> None:
        self.dtype = _product_dtype(hidden)
        self.hidden = hidden.to(self.dtype)
        self.head = head
        self.weight = head.weight.detach().to(self.dtype)
        self.bias = None if head.bias is None else head.bias.detach().to(self.dtype)
        self._buffer: Tensor | None = None

    def products(self, tokens: slice) -> Tensor:
        """[C, V]; valid until the next call, and free to be overwritten."""
        hidden = self.hidden[tokens]
        if self._buffer is None:
            self._buffer = hidden.new_empty(len(hidden), len(self.weight))
        products = self._buffer[: len(hidden)]
        if self.bias is None:
            return torch.mm(hidden, self.weight.T, out=products)
        return torch.addmm(self.bias, hidden, self.weight.T, out=products)


class _Gradients:
    """Gradients of hidden states, weight and bias: None where nobody asked."""

    def __init__(self, projection: _Projection, needed: tuple[bool, bool, bool]) -> None:
        hidden, weight, bias = projection.hidden, projection.weight, projection.bias
        wide = _wide_dtype(weight.dtype)
        self.projection = projection
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight, dtype=wide) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=wide) if needed[2] and bias is not None else None

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
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        projection = _Projection(hidden, head)
        gradients = _Gradients(projection, ctx.needs_input_grad[:3]) if grad_enabled else None
        with torch.autocast(hidden.device.type, enabled=False):
            sums = _walk(projection, criterion, gradients, chunk_tokens)
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
        return *scaled, None, None, None, None


def _reduce(hidden: Tensor, head: Head, criterion: Criterion, chunk_tokens: int) -> tuple[Tensor, Tensor]:
    """Sum of the first loss, with gradients, and [num_losses] sums without. `hidden` is [N, D]."""
    total, sums = _LinearLoss.apply(
        hidden, head.weight, head.bias, head, criterion, chunk_tokens, torch.is_grad_enabled()
    )
    return total, sums


def _walk(
    projection: _Projection, criterion: Criterion, gradients: _Gradients | None, chunk_tokens: int
) -> Tensor:
    """[num_losses] sums over all tokens; adds to `gradients` on the way."""
    num_tokens, (vocab, _) = len(projection.hidden), projection.weight.shape
    on_cpu = projection.hidden.device.type == "cpu"
    block_tokens = max(1, _BLOCK_ELEMENTS // vocab) if on_cpu else chunk_tokens
    losses = projection.hidden.new_empty(
        (criterion.num_losses, num_tokens), dtype=_wide_dtype(projection.dtype)
    )
    for chunk in _slices(0, num_tokens, chunk_tokens):
        products = projection.products(chunk)
        criterion.start_chunk(chunk)
        for tokens in _slices(chunk.start, chunk.stop, block_tokens):
            block = products[tokens.start - chunk.start : tokens.stop - chunk.start]
            logits = projection.head.finish(_wide(block))
            log_probs = torch.log_softmax(logits, dim=-1)
            losses[:, tokens] = criterion.losses(log_probs, tokens, gradient=gradients is not None)
            if gradients is not None:
                block.copy_(_unfinish(log_probs, logits, projection.head))
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


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """What a linear layer would compute in: autocast leaves float64 alone."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


def _wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_wide_dtype(tensor.dtype))
