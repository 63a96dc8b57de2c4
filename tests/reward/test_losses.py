"""The losses have the values and gradients of arXiv 2410.01257, section 3."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from niwaki.reward.extrapolate import extrapolate, sweep
from niwaki.reward.losses import bradley_terry, masked_squared_errors

# d, m, regular, margin, scaled, and the three gradients by r_c.
GOLDEN = [
    (0, 1, 0.693147, 1.313262, 0.693147, -0.500000, -0.731059, -0.500000),
    (1, 1, 0.313262, 0.693147, 0.313262, -0.268941, -0.500000, -0.268941),
    (1, 2, 0.313262, 1.313262, 0.626523, -0.268941, -0.731059, -0.537883),
    (1, 3, 0.313262, 2.126928, 0.939785, -0.268941, -0.880797, -0.806824),
    (-0.5, 2, 0.974077, 2.578890, 1.948154, -0.622459, -0.924142, -1.244919),
    (2, 3, 0.126928, 1.313262, 0.380784, -0.119203, -0.731059, -0.357609),
]
FORMS = ("regular", "margin", "scaled")
gaps = st.floats(-8, 8)


def loss_of(d, m, form, q=None):
    as_tensor = None if q is None else torch.tensor([q], dtype=torch.float64)
    d, m = torch.tensor([d], dtype=torch.float64), torch.tensor([m], dtype=torch.float64)
    return float(bradley_terry(d, m, form=form, q=as_tensor))


@pytest.mark.parametrize("row", GOLDEN)
@pytest.mark.parametrize("number, form", enumerate(FORMS))
def test_golden_values_and_gradients(row, number, form):
    d = torch.tensor([float(row[0])], requires_grad=True)
    loss = bradley_terry(d, torch.tensor([float(row[1])]), form=form)[0]
    loss.backward()
    assert loss.item() == pytest.approx(row[2 + number], abs=1e-5)
    assert float(d.grad) == pytest.approx(row[5 + number], abs=1e-5)


@given(gaps, st.integers(1, 3))
def test_scaled_is_the_pair_repeated_and_margin_is_a_shift(d, m):
    assert loss_of(d, m, "scaled") == pytest.approx(m * loss_of(d, 1, "regular"))
    assert loss_of(d, m, "margin") == pytest.approx(loss_of(d - m, 1, "regular"))


@given(gaps, st.floats(0, 1))
def test_soft_labels_agree_with_swapping_the_answers(d, q):
    assert loss_of(d, 1, "regular", q) == pytest.approx(loss_of(-d, 1, "regular", 1 - q))
    assert loss_of(d, 2, "scaled", 1.0) == pytest.approx(loss_of(d, 2, "scaled"))


@given(gaps)
def test_a_tie_is_least_wrong_at_no_difference(d):
    assert loss_of(d, 1, "regular", 0.5) >= loss_of(0, 1, "regular", 0.5) - 1e-12


def test_missing_ratings_do_not_count():
    labels = torch.tensor([[4.0, 0, 1, 2, 0]])
    mask = torch.tensor([[True, False, True, True, False]])
    errors = masked_squared_errors(torch.tensor([[2.0, 3, 1, 0, 1]]), labels, mask)
    assert float(errors.sum() / mask.sum()) == pytest.approx(8 / 3)


def test_extrapolation_in_float32_keeps_what_bfloat16_would_lose():
    start = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}
    assert float(
        extrapolate({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, 1.52)["w"]
    ) == pytest.approx(2.52)
    moved = extrapolate(start, {"w": torch.tensor([1.0078125], dtype=torch.bfloat16)}, 2.0)
    assert moved["w"].dtype == torch.bfloat16
    assert float(moved["w"]) == 1.015625
    trained = {"w": torch.tensor([3.0]), "n": torch.tensor([1])}
    begun = {"w": torch.tensor([1.0]), "n": torch.tensor([1])}
    assert extrapolate(begun, trained, 0.0)["w"] == 1
    assert extrapolate(begun, trained, 1.0)["w"] == 3


def test_the_sweep_leaves_the_best_step_in_the_model():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)

    def measure(tried):
        return float(float(tried.weight) < 2.8), abs(float(tried.weight) - 2.5)

    found = sweep(model, {"weight": torch.tensor([[1.0]])}, measure, grid=(0, 1, 1.5, 3))
    assert found["a"] == 1.5
    assert float(model.weight) == pytest.approx(2.5)
    assert [point["a"] for point in found["curve"]] == [0, 1, 1.5, 3]
