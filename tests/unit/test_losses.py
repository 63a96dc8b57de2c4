"""The definitions of the losses."""

import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from niwaki.distillation.losses import cross_entropy, forward_kl

SHAPE = (2, 5, 7)


def logits(seed):
    return 4 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_forward_kl_is_from_teacher_to_student_per_target():
    student, teacher = logits(0), logits(1)
    expected = kl_divergence(Categorical(logits=teacher), Categorical(logits=student))
    torch.testing.assert_close(forward_kl(student, teacher), expected)


def test_forward_kl_of_a_model_with_itself_is_zero():
    torch.testing.assert_close(forward_kl(logits(0), logits(0)), torch.zeros(2, 5, dtype=torch.float64))


def test_adding_a_constant_to_the_logits_of_a_token_changes_nothing():
    student, teacher = logits(0), logits(1)
    torch.testing.assert_close(forward_kl(student + 100, teacher - 50), forward_kl(student, teacher))


def test_large_logits_stay_finite():
    assert forward_kl(1e4 * logits(0).float(), 1e4 * logits(1).float()).isfinite().all()


def test_cross_entropy_per_target():
    targets = torch.arange(10).reshape(2, 5) % 7
    expected = F.cross_entropy(logits(0).flatten(0, 1), targets.flatten(), reduction="none").reshape(2, 5)
    torch.testing.assert_close(cross_entropy(logits(0), targets), expected)
