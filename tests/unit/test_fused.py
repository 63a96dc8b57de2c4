"""The fused losses: equal to the definitions in value and gradient, and never all logits in memory."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from niwaki.distillation import losses
from niwaki.distillation.fused import linear_cross_entropy, linear_distillation, linear_kl
from niwaki.distillation.losses import cross_entropy, forward_kl
from niwaki.ground.head import Head


class Case:
    """Random hidden states and heads; the student's are leaves that require gradients."""

    def __init__(self, tokens=(3, 7), vocab=11, widths=(4, 6), dtype=torch.float64, seed=0, **transform):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        student, teacher = widths
        bias = transform.pop("bias", False)
        self.hidden = normal(*tokens, student).requires_grad_()
        self.head = Head(
            normal(vocab, student).requires_grad_(),
            normal(vocab).requires_grad_() if bias else None,
            **transform,
        )
        self.teacher_hidden = normal(*tokens, teacher)
        self.teacher_head = Head(normal(vocab, teacher), normal(vocab) if bias else None, **transform)
        self.targets = torch.randint(vocab, tokens, generator=generator)
        self.mask = torch.rand(tokens, generator=generator) < 0.7

    def kl(self, **options):
        return linear_kl(self.hidden, self.head, self.teacher_hidden, self.teacher_head, self.mask, **options)

    def naive_kl(self):
        teacher = self.teacher_head.logits(self.teacher_hidden)
        return (forward_kl(self.head.logits(self.hidden), teacher) * self.mask).sum()

    def cross_entropy(self, **options):
        return linear_cross_entropy(self.hidden, self.head, self.targets, self.mask, **options)

    def naive_cross_entropy(self):
        return (cross_entropy(self.head.logits(self.hidden), self.targets) * self.mask).sum()

    def gradients(self, loss):
        """Of hidden states, weight and, where there is one, bias. The factor is what training divides by."""
        leaves = [t for t in (self.hidden, self.head.weight, self.head.bias) if t is not None]
        return torch.autograd.grad(loss / 7, leaves)


cases = st.builds(
    Case,
    tokens=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    vocab=st.integers(2, 40),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**16),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.125, 3.0]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
)


@settings(deadline=None)
@given(case=cases, chunk_tokens=st.integers(1, 30))
def test_kl_equals_its_definition_with_all_gradients(case, chunk_tokens):
    fused, naive = case.kl(chunk_tokens=chunk_tokens), case.naive_kl()
    torch.testing.assert_close(fused, naive, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(case.gradients(fused), case.gradients(naive), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(case=cases, chunk_tokens=st.integers(1, 30))
def test_cross_entropy_equals_its_definition_with_all_gradients(case, chunk_tokens):
    fused, naive = case.cross_entropy(chunk_tokens=chunk_tokens), case.naive_cross_entropy()
    torch.testing.assert_close(fused, naive, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(case.gradients(fused), case.gradients(naive), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


DIVERGENCES = ["forward_kl", "reverse_kl", "jensen_shannon"]
options = st.one_of(
    st.fixed_dictionaries(
        {"loss": st.sampled_from(DIVERGENCES), "temperature": st.sampled_from([1.0, 0.5, 3.0])}
    ),
    st.fixed_dictionaries({"loss": st.just("jensen_shannon"), "jsd_beta": st.sampled_from([0.1, 0.9])}),
    st.fixed_dictionaries({"loss": st.sampled_from(["mse", "cosine"])}),
)


def distillation(case, **options):
    models = case.hidden, case.head, case.teacher_hidden, case.teacher_head
    return linear_distillation(*models, case.targets, case.mask, **options)


def naive_distillation(case, *, loss, lm_weight=0.0, **options):
    if "jsd_beta" in options:
        options["beta"] = options.pop("jsd_beta")
    teacher = case.teacher_head.logits(case.teacher_hidden)
    divergence = getattr(losses, loss)(case.head.logits(case.hidden), teacher, **options)
    divergence = (divergence * case.mask).sum()
    nats = case.naive_cross_entropy()
    return divergence + lm_weight * nats, divergence, nats


@settings(deadline=None, max_examples=200)
@given(
    case=cases,
    options=options,
    lm_weight=st.sampled_from([0.0, 0.7]),
    top_k=st.sampled_from([None, 1, 2, 5, 39]),
    chunk_tokens=st.integers(1, 30),
)
def test_every_loss_equals_its_definition_with_all_gradients(case, options, lm_weight, top_k, chunk_tokens):
    options = options | {"lm_weight": lm_weight, "top_k": top_k and min(top_k, len(case.head.weight))}
    fused, naive = (
        distillation(case, chunk_tokens=chunk_tokens, **options),
        naive_distillation(case, **options),
    )
    for ours, theirs in zip(fused, naive, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert not fused[1].requires_grad
    assert not fused[2].requires_grad
    for ours, theirs in zip(case.gradients(fused[0]), case.gradients(naive[0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


ALL = [*DIVERGENCES, "mse", "cosine"]


@pytest.mark.parametrize("loss", ALL)
def test_gradcheck_of_every_loss(loss):
    case = Case(tokens=(5,), vocab=6, bias=True, softcap=3.0)

    def total(hidden, weight, bias):
        case.hidden, case.head = hidden, replace(case.head, weight=weight, bias=bias)
        return distillation(case, loss=loss, top_k=4, lm_weight=0.3, chunk_tokens=2)[0]

    leaves = (case.hidden, case.head.weight, case.head.bias)
    assert torch.autograd.gradcheck(lambda *t: Recomputed.apply(total, *t), leaves)


@pytest.mark.parametrize("loss", ALL)
def test_every_loss_takes_the_same_four_matrix_products_and_no_tensor_as_large_as_the_logits(loss):
    case = Case(tokens=(64,), vocab=300, dtype=torch.float32, softcap=20.0)
    case.mask[:] = True
    with Record() as record:
        distillation(case, loss=loss, lm_weight=0.5, top_k=200, chunk_tokens=64)[0].backward()
    assert record.products == 4
    with Record() as record:
        distillation(case, loss=loss, lm_weight=0.5, top_k=200, chunk_tokens=8)[0].backward()
    assert record.largest == 8 * 300


@pytest.mark.parametrize("loss", ALL)
def test_without_gradients_every_loss_has_its_value(loss):
    case = Case()
    with torch.no_grad():
        found = distillation(case, loss=loss, lm_weight=0.5)
    for ours, theirs in zip(found, naive_distillation(case, loss=loss, lm_weight=0.5), strict=True):
        torch.testing.assert_close(ours, theirs.detach())


class Recomputed(torch.autograd.Function):
    """gradcheck goes backward several times through one graph, which the fused losses refuse."""

    @staticmethod
    def forward(ctx, loss, *leaves):
        ctx.loss = loss
        ctx.save_for_backward(*leaves)
        return loss(*leaves)

    @staticmethod
    def backward(ctx, grad):
        leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            return None, *torch.autograd.grad(ctx.loss(*leaves), leaves, grad)


@pytest.mark.parametrize("transform", [{}, {"scale": 0.5}, {"softcap": 3.0}, {"scale": 2.0, "softcap": 3.0}])
def test_gradcheck(transform):
    case = Case(tokens=(5,), vocab=6, bias=True, **transform)

    def kl(hidden, weight, bias):
        head = replace(case.head, weight=weight, bias=bias)
        return linear_kl(hidden, head, case.teacher_hidden, case.teacher_head, case.mask, chunk_tokens=2)

    def ce(hidden, weight, bias):
        head = replace(case.head, weight=weight, bias=bias)
        return linear_cross_entropy(hidden, head, case.targets, case.mask, chunk_tokens=2)

    for loss in (kl, ce):
        leaves = (case.hidden, case.head.weight, case.head.bias)
        assert torch.autograd.gradcheck(lambda *t, loss=loss: Recomputed.apply(loss, *t), leaves)


def test_blocks_inside_a_chunk_change_nothing(monkeypatch):
    case = Case(tokens=(20,))
    whole = case.gradients(case.kl())
    monkeypatch.setattr("niwaki.distillation.fused._BLOCK_ELEMENTS", 3 * 11)
    for ours, expected in zip(case.gradients(case.kl(chunk_tokens=8)), whole, strict=True):
        torch.testing.assert_close(ours, expected)


def test_masked_tokens_are_never_read():
    case = Case()
    expected = case.gradients(case.kl())
    with torch.no_grad():
        case.hidden[~case.mask] = float("nan")
        case.teacher_hidden[~case.mask] = float("inf")
        case.targets[~case.mask] = -100
    assert case.cross_entropy().isfinite()
    ours = case.gradients(case.kl())
    torch.testing.assert_close(ours, expected)
    assert (ours[0][~case.mask] == 0).all()


@pytest.mark.parametrize("loss", ["kl", "cross_entropy"])
def test_a_batch_without_targets_has_no_loss_and_zero_gradients(loss):
    case = Case()
    case.mask[:] = False
    total = getattr(case, loss)()
    assert total.item() == 0
    assert all((g == 0).all() for g in case.gradients(total))


def test_the_teacher_gets_no_gradient():
    case = Case()
    case.teacher_hidden.requires_grad_()
    case.teacher_head.weight.requires_grad_()
    case.kl().backward()
    assert case.teacher_hidden.grad is None
    assert case.teacher_head.weight.grad is None


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_costs_no_matrix_product(frozen):
    case = Case(tokens=(6,))
    other = case.head.weight if frozen == "hidden" else case.hidden
    (expected,) = torch.autograd.grad(case.naive_kl(), [other])
    (case.hidden if frozen == "hidden" else case.head.weight).requires_grad_(False)
    with Record() as record:
        loss = case.kl()
    assert record.products == 3
    (found,) = torch.autograd.grad(loss, [other])
    torch.testing.assert_close(found, expected)


def test_without_gradients_only_the_logits_are_computed():
    case = Case(tokens=(6,))
    with torch.no_grad(), Record() as record:
        loss = case.kl()
    assert not loss.requires_grad
    assert record.products == 2
    torch.testing.assert_close(loss, case.naive_kl().detach())


def test_with_gradients_the_four_matrix_products_of_the_floor_and_no_more():
    case = Case(tokens=(6,))
    with Record() as record:
        case.kl().backward()
    assert record.products == 4


def test_tied_embeddings_get_both_gradients():
    tokens = torch.tensor([[1, 4, 4, 2]])
    case = Case(tokens=(1, 4))

    def gradient(loss):
        embedding = case.head.weight.detach().clone().requires_grad_()
        case.hidden = torch.nn.functional.embedding(tokens, embedding).tanh()
        case.head = replace(case.head, weight=embedding)
        loss().backward()
        return embedding.grad

    torch.testing.assert_close(gradient(case.kl), gradient(case.naive_kl))


def test_sums_of_parts_are_the_whole_so_that_accumulation_can_divide_by_all_targets():
    case = Case(tokens=(6, 4))
    whole = case.gradients(case.kl())
    parts = 0
    for rows in (slice(0, 1), slice(1, 6)):
        parts = parts + linear_kl(
            case.hidden[rows], case.head, case.teacher_hidden[rows], case.teacher_head, case.mask[rows]
        )
    for ours, expected in zip(case.gradients(parts), whole, strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_second_backward_is_refused():
    case = Case()
    loss = case.kl()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_products_in_its_dtype_and_stays_close(dtype):
    case = Case(tokens=(64,), vocab=50, widths=(32, 48), dtype=torch.float32)
    expected, expected_grads = case.naive_kl(), case.gradients(case.naive_kl())
    with torch.autocast("cpu", dtype), Record() as record:
        loss = case.kl(chunk_tokens=16)
    assert record.product_dtypes == {dtype}
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    for ours, theirs in zip(case.gradients(loss), expected_grads, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()


def test_autocast_leaves_float64_alone():
    case = Case()
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.kl()
    torch.testing.assert_close(loss, case.naive_kl())


def test_bfloat16_weights_accumulate_in_float32():
    case = Case(tokens=(512,), vocab=50, widths=(32, 48), dtype=torch.bfloat16)
    exact = Case(tokens=(512,), vocab=50, widths=(32, 48), dtype=torch.bfloat16)
    exact.hidden, exact.head = exact.hidden.double(), replace(exact.head, weight=exact.head.weight.double())
    exact.teacher_hidden = exact.teacher_hidden.double()
    exact.teacher_head = replace(exact.teacher_head, weight=exact.teacher_head.weight.double())
    loss, expected = case.kl(chunk_tokens=8), exact.naive_kl()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
    ours, theirs = case.gradients(loss)[1], exact.gradients(expected)[1]
    assert ours.dtype == torch.bfloat16
    assert (ours - theirs).norm() < 6e-3 * theirs.norm()


def test_a_teacher_in_another_dtype():
    case = Case(dtype=torch.float32)
    expected = case.naive_kl()
    case.teacher_hidden = case.teacher_hidden.double()
    case.teacher_head = replace(case.teacher_head, weight=case.teacher_head.weight.double())
    torch.testing.assert_close(case.kl(), expected)


class Record(TorchDispatchMode):
    """Matrix products run, and the elements of the largest tensor any operation gave back."""

    def __init__(self):
        super().__init__()
        self.products, self.product_dtypes, self.largest = 0, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple | list) else out
        if isinstance(first, torch.Tensor):
            self.largest = max(self.largest, first.numel())
            if func.overloadpacket in {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_}:
                self.products += 1
                self.product_dtypes.add(first.dtype)
        return out


@pytest.mark.parametrize("loss", ["kl", "cross_entropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_as_large_as_the_logits(loss, dtype):
    tokens, vocab, chunk = 64, 300, 8
    case = Case(tokens=(tokens,), vocab=vocab, widths=(4, 6), dtype=dtype, softcap=20.0)
    case.mask[:] = True
    with Record() as record:
        getattr(case, loss)(chunk_tokens=chunk).backward()
    assert record.largest == chunk * vocab
    with Record() as record:
        getattr(case, f"naive_{loss}")().backward()
    assert record.largest == tokens * vocab, "the recorder must see the naive loss"
