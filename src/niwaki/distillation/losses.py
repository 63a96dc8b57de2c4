"""Losses as pure functions of logits, per target, in nats.

These are the definitions, and they hold all logits at once. Training computes the same values from hidden
states, chunk by chunk: see `fused`.

Shapes: V vocabulary; `..` any leading axes, the same in all arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) at temperature 1, [..] from two [.., V] (Minitron, section 2.4: Llogits)."""
    log_p = torch.log_softmax(teacher_logits, dim=-1)
    log_q = torch.log_softmax(student_logits, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target], [..] from [.., V] logits and [..] integer targets."""
    return -torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]
