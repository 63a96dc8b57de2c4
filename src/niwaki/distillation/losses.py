"""Losses as pure functions of logits, per target.

These are the definitions, and they hold all logits at once. Training computes the same values from hidden
states, chunk by chunk: see `fused`.

`temperature` divides the logits of both before the softmax; no loss is multiplied by its square (Minitron,
section 2.4). `top_k` leaves only the k tokens with the teacher's largest logits, of both: the two
distributions are those of a softmax over these k, and no other token has a gradient.

Shapes: V vocabulary; `..` any leading axes, the same in all arguments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """KL(teacher || student) in nats, [..] from two [.., V] (Minitron, section 2.4: Llogits)."""
    log_q, log_p = _log_distributions(student_logits, teacher_logits, temperature, top_k)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """KL(student || teacher) in nats, [..] from two [.., V]."""
    log_q, log_p = _log_distributions(student_logits, teacher_logits, temperature, top_k)
    return (log_q.exp() * (log_q - log_p)).sum(dim=-1)


def jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Tensor:
    """beta KL(teacher || m) + (1 - beta) KL(student || m), m = beta teacher + (1 - beta) student, in nats.

    At beta 0.5 this is the Jensen-Shannon divergence; in between, the generalised one of arXiv 2306.13649,
    section 3.
    """
    log_q, log_p = _log_distributions(student_logits, teacher_logits, temperature, top_k)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    teacher_part = (log_p.exp() * (log_p - log_m)).sum(dim=-1)
    student_part = (log_q.exp() * (log_q - log_m)).sum(dim=-1)
    return beta * teacher_part + (1 - beta) * student_part


def mse(student_logits: Tensor, teacher_logits: Tensor, *, top_k: int | None = None) -> Tensor:
    """Squared difference of the logits, mean over the vocabulary (or the k), [..] from two [.., V]."""
    student_logits, teacher_logits = _chosen(student_logits, teacher_logits, top_k)
    return (student_logits - teacher_logits).square().mean(dim=-1)


def cosine(student_logits: Tensor, teacher_logits: Tensor, *, top_k: int | None = None) -> Tensor:
    """1 - the cosine between the two vectors of logits, [..] from two [.., V]."""
    student_logits, teacher_logits = _chosen(student_logits, teacher_logits, top_k)
    return 1 - F.cosine_similarity(student_logits, teacher_logits, dim=-1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] in nats, [..] from [.., V] logits and [..] integer targets."""
    return -torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]


def _log_distributions(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, top_k: int | None
) -> tuple[Tensor, Tensor]:
    student_logits, teacher_logits = _chosen(student_logits, teacher_logits, top_k)
    return (
        torch.log_softmax(student_logits / temperature, dim=-1),
        torch.log_softmax(teacher_logits / temperature, dim=-1),
    )


def _chosen(student_logits: Tensor, teacher_logits: Tensor, top_k: int | None) -> tuple[Tensor, Tensor]:
    if top_k is None:
        return student_logits, teacher_logits
    teacher_logits, tokens = teacher_logits.topk(top_k, dim=-1)
    return student_logits.gather(-1, tokens), teacher_logits
