"""The definitions of the losses."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from niwaki.distillation.losses import (
    cosine,
    cross_entropy,
    forward_kl,
    jensen_shannon,
    mse,
    reverse_kl,
)

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


def kl(p, q):
    return kl_divergence(Categorical(probs=p), Categorical(probs=q))


def test_reverse_kl_is_the_forward_one_the_other_way_round():
    torch.testing.assert_close(reverse_kl(logits(0), logits(1)), forward_kl(logits(1), logits(0)))


def test_jensen_shannon_is_to_the_mixture_symmetric_at_one_half_and_bounded():
    student, teacher = logits(0).softmax(-1), logits(1).softmax(-1)
    mixture = 0.3 * teacher + 0.7 * student
    expected = 0.3 * kl(teacher, mixture) + 0.7 * kl(student, mixture)
    torch.testing.assert_close(jensen_shannon(student.log(), teacher.log(), beta=0.3), expected)
    found = jensen_shannon(logits(0), logits(1))
    torch.testing.assert_close(found, jensen_shannon(logits(1), logits(0)))
    assert (found > 0).all()
    assert (jensen_shannon(100 * logits(0), 100 * logits(1)) <= torch.tensor(2.0).log() + 1e-12).all()


def test_distances_of_the_logits_themselves():
    student, teacher = logits(0), logits(1)
    torch.testing.assert_close(mse(student, teacher), ((student - teacher) ** 2).sum(-1) / 7)
    angle = (student * teacher).sum(-1) / student.norm(dim=-1) / teacher.norm(dim=-1)
    torch.testing.assert_close(cosine(student, teacher), 1 - angle)


DIVERGENCES = [forward_kl, reverse_kl, jensen_shannon]


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_a_temperature_divides_the_logits_of_both_and_nothing_multiplies_the_loss(loss):
    found = loss(logits(0), logits(1), temperature=3.0)
    torch.testing.assert_close(found, loss(logits(0) / 3, logits(1) / 3))


@pytest.mark.parametrize("loss", [*DIVERGENCES, mse, cosine])
def test_top_k_is_the_loss_over_the_teachers_largest_logits_alone(loss):
    teacher = torch.tensor([[5.0, -1.0, 4.0, 0.0], [0.0, 7.0, 1.0, 2.0]])
    student = torch.tensor([[1.0, 9.0, 2.0, 3.0], [4.0, 1.0, 9.0, 0.0]])
    chosen = [[0, 2], [1, 3]]
    ours, theirs = (torch.stack([t[i][chosen[i]] for i in (0, 1)]) for t in (student, teacher))
    torch.testing.assert_close(loss(student, teacher, top_k=2), loss(ours, theirs))
    torch.testing.assert_close(loss(student, teacher, top_k=4), loss(student, teacher))
