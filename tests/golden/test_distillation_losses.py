"""Values of minitron.md, section 5.5."""

import pytest
import torch

from niwaki.distillation.fused import linear_cross_entropy, linear_distillation, linear_kl
from niwaki.distillation.losses import cross_entropy, forward_kl, reverse_kl
from niwaki.ground.head import Head

TEACHER = torch.tensor([1.0, 2.0, 3.0])
STUDENT = torch.tensor([1.0, 1.0, 1.0])
FORWARD_KL = 0.266217
REVERSE_KL = 0.308994


def test_forward_kl_of_the_paper():
    assert forward_kl(STUDENT, TEACHER).item() == pytest.approx(FORWARD_KL, abs=1e-6)


def test_reverse_kl_of_the_paper():
    assert reverse_kl(STUDENT, TEACHER).item() == pytest.approx(REVERSE_KL, abs=1e-6)


def test_cross_entropy_of_uniform_logits_is_log_of_the_vocabulary():
    assert cross_entropy(STUDENT, torch.tensor(2)).item() == pytest.approx(1.0986123, abs=1e-6)


def test_fused_losses_give_the_same_values():
    identity, mask = Head(torch.eye(3)), torch.tensor([True])
    kl = linear_kl(STUDENT[None], identity, TEACHER[None], identity, mask)
    ce = linear_cross_entropy(STUDENT[None], identity, torch.tensor([2]), mask)
    models = STUDENT[None], identity, TEACHER[None], identity
    _, reverse, _ = linear_distillation(*models, torch.tensor([2]), mask, loss="reverse_kl")
    assert kl.item() == pytest.approx(FORWARD_KL, abs=1e-6)
    assert reverse.item() == pytest.approx(REVERSE_KL, abs=1e-6)
    assert ce.item() == pytest.approx(1.0986123, abs=1e-6)
