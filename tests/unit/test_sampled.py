"""A distribution kept in a few numbers: right on average, and never all logits in memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from niwaki.distillation.losses import cross_entropy, forward_kl
from niwaki.distillation.sampled import linear_sampled_kl_and_cross_entropy, sample, sampled_kl
from niwaki.ground.head import Head

VOCAB, DRAWS = 40, 20_000


def log_softmax(seed, *shape, scale=1.5):
    logits = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.log_softmax(logits, dim=-1)


def uniform(num, seed=0):
    return torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("top_k", "num_samples"), [(1, 1), (4, 3), (16, 8), (39, 1)])
def test_the_estimate_is_right_on_average_in_value_and_gradient(top_k, num_samples):
    """Off by one part in 1000 is found; float16 moves less than that."""
    log_p, log_q = log_softmax(0, VOCAB), log_softmax(1, VOCAB)
    kept = sample(log_p.expand(DRAWS, -1), uniform(DRAWS), top_k=top_k, num_samples=num_samples)
    estimates = sampled_kl(log_q.expand(DRAWS, -1), kept)
    full = (log_p.exp() * (log_p - log_q)).sum()
    noise = estimates.std() / DRAWS**0.5
    assert (estimates.mean() - full).abs() < 4 * noise + 1e-3 * full
    mean_weight = torch.zeros(VOCAB).index_add_(0, kept.ids.flatten(), kept.weights.flatten()) / DRAWS
    torch.testing.assert_close(mean_weight.double(), log_p.exp(), rtol=0.08, atol=1e-3)
    assert mean_weight.sum() == pytest.approx(1, abs=1e-3)


@given(seed=st.integers(0, 1000), top_k=st.integers(1, 39), num_samples=st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_a_student_equal_to_its_teacher_has_no_loss(seed, top_k, num_samples):
    log_p = log_softmax(seed, 5, VOCAB, scale=4.0)
    kept = sample(log_p, uniform(5, seed), top_k=top_k, num_samples=num_samples)
    torch.testing.assert_close(sampled_kl(log_p, kept).float(), torch.zeros(5), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 1000), top_k=st.integers(1, 39), num_samples=st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_the_most_likely_are_kept_and_only_the_rest_is_drawn_as_often_as_it_should(seed, top_k, num_samples):
    log_p = log_softmax(seed, 3, VOCAB)
    kept = sample(log_p, uniform(3, seed), top_k=top_k, num_samples=num_samples)
    top, drawn = kept.ids[:, :top_k], kept.ids[:, top_k:]
    assert torch.equal(top, log_p.topk(top_k).indices)
    for row in range(3):
        assert not set(top[row].tolist()) & set(drawn[row].tolist())
        tail = log_p[row].exp().index_fill(0, top[row], 0.0)
        expected = num_samples * tail / tail.sum()
        counts = torch.bincount(drawn[row], minlength=VOCAB)
        assert ((counts - expected).abs() < 1 + 1e-9).all()


def test_a_tail_without_mass_weighs_nothing():
    log_p = torch.log_softmax(torch.tensor([[0.0, 2000.0, 0.0, 0.0]]), dim=-1)
    kept = sample(log_p, uniform(1), top_k=1, num_samples=2)
    assert kept.weights.tolist() == [[1.0, 0.0, 0.0]]
    assert sampled_kl(log_p, kept).item() == 0


class Case:
    """Hidden states and a head whose leaves require gradients, and what a teacher's cache says of them."""

    def __init__(self, tokens=(3, 7), vocab=VOCAB, dtype=torch.float64, **transform):
        generator = torch.Generator().manual_seed(3)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.hidden = normal(*tokens, 4).requires_grad_()
        self.head = Head(normal(vocab, 4).requires_grad_(), normal(vocab).requires_grad_(), **transform)
        self.log_teacher = torch.log_softmax(normal(*tokens, vocab).float(), dim=-1)
        count = self.log_teacher[..., 0].numel()
        flat = sample(self.log_teacher.flatten(0, -2), uniform(count), top_k=5, num_samples=3)
        self.ids = flat.ids.unflatten(0, tokens)
        self.weights = flat.weights.unflatten(0, tokens)
        self.neg_entropy = flat.neg_entropy.unflatten(0, tokens)
        self.targets = torch.randint(vocab, tokens, generator=generator)
        self.mask = torch.rand(tokens, generator=generator) < 0.7

    def fused(self, **options):
        return linear_sampled_kl_and_cross_entropy(
            self.hidden,
            self.head,
            self.ids,
            self.weights,
            self.neg_entropy,
            self.targets,
            self.mask,
            **options,
        )

    def naive(self):
        """The weights written out over the whole vocabulary."""
        logits = self.head.logits(self.hidden)
        dense = torch.zeros(logits.shape, dtype=logits.dtype).scatter_add(
            -1, self.ids, self.weights.to(logits.dtype)
        )
        kl = self.neg_entropy - (dense * torch.log_softmax(logits, dim=-1)).sum(dim=-1)
        return (kl * self.mask).sum(), (cross_entropy(logits, self.targets) * self.mask).sum()

    def gradients(self, loss):
        return torch.autograd.grad(loss / 7, [self.hidden, self.head.weight, self.head.bias])


@pytest.mark.parametrize("transform", [{}, {"scale": 0.125}, {"softcap": 3.0}])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 256])
def test_the_fused_loss_is_the_dense_one_with_all_gradients(transform, chunk_tokens):
    case = Case(**transform)
    (kl, nats), (dense_kl, dense_nats) = case.fused(chunk_tokens=chunk_tokens), case.naive()
    torch.testing.assert_close(kl, dense_kl, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(nats, dense_nats.detach(), rtol=1e-10, atol=1e-12)
    assert not nats.requires_grad
    for ours, theirs in zip(case.gradients(kl), case.gradients(dense_kl), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_keeping_all_but_one_token_is_the_full_divergence():
    log_p, log_q = log_softmax(0, 6, VOCAB), log_softmax(1, 6, VOCAB)
    kept = sample(log_p, uniform(6), top_k=VOCAB - 1, num_samples=1)
    torch.testing.assert_close(sampled_kl(log_q, kept), forward_kl(log_q, log_p), rtol=2e-3, atol=1e-4)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation gave back."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


def test_no_tensor_as_large_as_the_logits():
    case = Case(tokens=(64,), vocab=300, dtype=torch.float32)
    case.mask[:] = True
    with Largest() as fused:
        case.fused(chunk_tokens=8)[0].backward()
    with Largest() as naive:
        case.naive()[0].backward()
    assert fused.largest == 8 * 300
    assert naive.largest == 64 * 300, "the recorder must see the naive loss"
