"""What each token costs: criteria for the walk of `fused`, over blocks of logits or log-probabilities.

The values are those of `losses`. Gradients are written out by hand and left in the block they belong to, so
a block is passed over a few times in the processor's cache and nothing the size of the logits is kept.

Shapes: R tokens of a block, V vocabulary, K tokens of it that a loss looks at (V without top-k).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from niwaki.distillation.projection import Projection, wide
from niwaki.errors import RecipeError
from niwaki.ground.head import Head

LogitLoss = Literal["forward_kl", "reverse_kl", "jensen_shannon", "mse", "cosine"]
_OF_LOGITS = ("mse", "cosine")
_EPS = 1e-8  # the smallest norm of `torch.nn.functional.cosine_similarity`


class CrossEntropy:
    """-log p(target), for `targets` [N]."""

    num_losses = 1

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def start_chunk(self, tokens: slice) -> None:
        """Nothing to prepare."""

    def losses(self, log_probs: Tensor, tokens: slice, *, gradient: bool) -> Tensor:
        """[1, R]; see `fused.Criterion`."""
        targets = self.targets[tokens, None]
        losses = -log_probs.gather(-1, targets).T
        if gradient:
            log_probs.exp_().scatter_add_(-1, targets, log_probs.new_full(targets.shape, -1.0))
        return losses


class ToTeacher:
    """How far a token's logits are from a live teacher's, and the cross-entropy on the text beside it.

    Losses, in this order: with `lm_weight` the total that is trained on, divergence + lm_weight *
    cross-entropy; the divergence; with `targets` the cross-entropy. `of_logits` says which kind of block
    `losses` reads.

    Args:
        hidden: [N, Dt], the input of the teacher's head.
        targets: [N], needed for `lm_weight`.
        loss, temperature, top_k, jsd_beta: see `losses`, and `check_options`.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Head,
        targets: Tensor | None = None,
        *,
        loss: LogitLoss = "forward_kl",
        temperature: float = 1.0,
        top_k: int | None = None,
        jsd_beta: float = 0.5,
        lm_weight: float = 0.0,
    ) -> None:
        self.projection = Projection(hidden, head)
        self.cross_entropy = None if targets is None else CrossEntropy(targets)
        self.of_logits = loss in _OF_LOGITS
        self.num_losses = 1 + (targets is not None) + (lm_weight != 0)
        self._divergence = _divergence(loss, jsd_beta)
        self._temperature, self._top_k, self._lm_weight = temperature, top_k, lm_weight

    def start_chunk(self, tokens: slice) -> None:
        """Compute the teacher's products for these tokens."""
        self._first = tokens.start
        self._products = self.projection.products(tokens)

    def losses(self, scores: Tensor, tokens: slice, *, gradient: bool) -> Tensor:
        """[num_losses, R] from [R, V] log-probabilities, or logits if `of_logits`; see `fused.Criterion`."""
        rows = []
        likelihood = None
        if self.cross_entropy is not None:
            mixed = gradient and self._lm_weight != 0
            log_probs = torch.log_softmax(scores, dim=-1) if self.of_logits else scores
            likelihood = log_probs.clone() if mixed else log_probs
            rows = [self.cross_entropy.losses(likelihood, tokens, gradient=mixed)[0]]
        rows.insert(0, self._to_teacher(scores, tokens, gradient=gradient))
        if self._lm_weight != 0:
            rows.insert(0, rows[0] + self._lm_weight * rows[1])
            if gradient and likelihood is not None:
                scores.add_(likelihood, alpha=self._lm_weight)
        return torch.stack(rows)

    def _to_teacher(self, scores: Tensor, tokens: slice, *, gradient: bool) -> Tensor:
        """[R] divergences; with `gradient`, leaves theirs in `scores`."""
        block = self._products[tokens.start - self._first : tokens.stop - self._first]
        teacher = self.projection.head.finish(wide(block))
        student, chosen = scores, None
        if self._top_k is not None:
            teacher, chosen = teacher.topk(self._top_k, dim=-1)
            student = scores.gather(-1, chosen)
        if not self.of_logits:
            teacher = self._log_softmax(teacher)
            if chosen is not None or self._temperature != 1.0:
                student = self._log_softmax(student)
        losses = self._divergence(student, teacher, gradient)
        if gradient:
            if self._temperature != 1.0:
                student.div_(self._temperature)
            if chosen is not None:
                scores.zero_().scatter_(-1, chosen, student)
            elif student is not scores:
                scores.copy_(student)
        return losses

    def _log_softmax(self, logits: Tensor) -> Tensor:
        return torch.log_softmax(logits if self._temperature == 1.0 else logits / self._temperature, dim=-1)


def check_options(
    *, loss: str, temperature: float, top_k: int | None, jsd_beta: float, vocab_size: int
) -> None:
    """Refuse options of a logit loss that cannot work, or that would do nothing.

    Raises:
        RecipeError: names the option, its value and what is possible.
    """
    known = ", ".join(get_args(LogitLoss))
    if loss not in get_args(LogitLoss):
        raise RecipeError(f"loss {loss!r} is unknown.", f"Write one of {known}.")
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise RecipeError(
            f"top_k is {top_k:,}, but the teacher's vocabulary has {vocab_size:,} tokens.",
            f"Write 1 to {vocab_size:,}, or leave it out to use them all.",
        )
    if not temperature > 0 or (temperature != 1.0 and loss in _OF_LOGITS):
        raise RecipeError(
            f"temperature {temperature:g} has no meaning for {loss}.",
            "A temperature is above zero, and belongs to forward_kl, reverse_kl and jensen_shannon.",
        )
    if not 0 < jsd_beta < 1 or (jsd_beta != 0.5 and loss != "jensen_shannon"):
        raise RecipeError(
            f"jsd_beta {jsd_beta:g} has no meaning for {loss}.",
            "It lies between 0 and 1, and belongs to jensen_shannon.",
        )


# Each takes [R, K] of student and teacher, both free to be overwritten, gives [R] and, with `gradient`,
# leaves in `student` the gradient by the logits whose log-softmax `student` is (or by the logits that it is).
_Divergence = Callable[[Tensor, Tensor, bool], Tensor]


def _forward_kl(log_q: Tensor, log_p: Tensor, gradient: bool) -> Tensor:
    p = log_p.exp()
    losses = log_p.sub_(log_q).mul_(p).sum(dim=-1)
    if gradient:
        log_q.exp_().sub_(p)
    return losses


def _reverse_kl(log_q: Tensor, log_p: Tensor, gradient: bool) -> Tensor:
    q = log_q.exp()
    log_ratio = log_q.sub_(log_p)
    losses = torch.mul(q, log_ratio, out=log_p).sum(dim=-1)
    if gradient:
        log_ratio.sub_(losses[:, None]).mul_(q)
    return losses


def _jensen_shannon(log_q: Tensor, log_p: Tensor, gradient: bool, *, beta: float) -> Tensor:
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    teacher_part = log_p.sub_(log_m).mul_(p).sum(dim=-1)
    log_ratio = log_q.sub_(log_m)
    student_part = torch.mul(q, log_ratio, out=log_m).sum(dim=-1)
    if gradient:
        log_ratio.sub_(student_part[:, None]).mul_(q).mul_(1 - beta)
    return beta * teacher_part + (1 - beta) * student_part


def _mse(student: Tensor, teacher: Tensor, gradient: bool) -> Tensor:
    difference = student.sub_(teacher)
    losses = difference.square().mean(dim=-1)
    if gradient:
        difference.mul_(2 / difference.shape[-1])
    return losses


def _cosine(student: Tensor, teacher: Tensor, gradient: bool) -> Tensor:
    length = torch.linalg.vector_norm(student, dim=-1, keepdim=True).clamp_min_(_EPS)
    teacher.div_(torch.linalg.vector_norm(teacher, dim=-1, keepdim=True).clamp_min_(_EPS))
    cosines = (student * teacher).sum(dim=-1, keepdim=True).div_(length)
    if gradient:
        student.mul_(cosines / length).sub_(teacher).div_(length)
    return 1 - cosines[:, 0]


def _divergence(loss: LogitLoss, jsd_beta: float) -> _Divergence:
    known: Mapping[LogitLoss, _Divergence] = {
        "forward_kl": _forward_kl,
        "reverse_kl": _reverse_kl,
        "jensen_shannon": partial(_jensen_shannon, beta=jsd_beta),
        "mse": _mse,
        "cosine": _cosine,
    }
    return known[loss]
