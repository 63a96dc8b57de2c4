"""The score values of the paper's formulas on tensors small enough to work out by hand."""

import pytest
import torch

from niwaki.pruning.aggregate import cosines, over_tokens, token_dots
from niwaki.pruning.scores import Scores

X = torch.tensor([[[1.0, -2], [3, 4], [2, 0]], [[5, 0], [-1, 2], [6, 1]]])  # [B=2, S=3, C=2]

RIGHT = {
    ("l2", "mean"): [4.472136, 2.236068],
    ("l2", "l2"): [8.717798, 5.0],
    ("mean", "mean"): [3.0, 1.5],
}
WRONG = {
    "no absolute value": [3.887301, 1.201850],
    "axes swapped": [5.385165, 3.201562],
    "tokens and samples in the wrong order": [5.807833, 3.354102],
}


def importance(x_BSC, batch, sequence):
    scores = Scores(sizes={"layer": 1}, provenance={}, num_samples=len(x_BSC))
    for name, values in over_tokens(x_BSC, None, ["mean", "l2", "var"]).items():
        scores.add_samples(f"layers.0.ffn.{name}", values)
    return scores.importance("ffn", batch=batch, sequence=sequence)[0].tolist()


@pytest.mark.parametrize(("batch", "sequence"), RIGHT)
def test_aggregations(batch, sequence):
    assert importance(X, batch, sequence) == pytest.approx(RIGHT[batch, sequence], abs=1e-6)


def test_variance_over_samples_and_tokens():
    sizes = X.abs().double()
    expected = sizes.var(1, correction=0).var(0, correction=0).tolist()
    assert importance(X, "var", "var") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("fault", WRONG)
def test_known_wrong_orders_are_other_metrics(fault):
    assert importance(X, "l2", "mean") != pytest.approx(WRONG[fault], abs=1e-3)


def test_a_sequence_first_layout_gives_the_swapped_metric():
    swapped = importance(X.transpose(0, 1), "l2", "mean")
    assert swapped == pytest.approx(WRONG["axes swapped"], abs=1e-6)


def test_mean_and_l2_over_tokens_rank_a_steady_and_a_peaked_unit_oppositely():
    x = torch.tensor([[[1.0, 3.0], [1, 0], [1, 0], [1, 0]]])
    assert importance(x, "l2", "mean") == pytest.approx([1, 0.75])
    assert importance(x, "l2", "l2") == pytest.approx([2, 3])


def influence(x, y):
    x, y = torch.tensor([[x]]), torch.tensor([[y]])
    return 1 - cosines(token_dots(x, y), token_dots(x, x), token_dots(y, y)).item()


def test_block_influence():
    assert influence([1.0, 0.0], [1.0, 1.0]) == pytest.approx(0.292893, abs=1e-6)


def test_block_influence_of_an_identity_layer_is_exactly_zero():
    x = torch.randn(64, generator=torch.Generator().manual_seed(0)).tolist()
    assert influence(x, x) == 0


def test_a_zero_vector_is_orthogonal_to_all():
    assert influence([0.0, 0.0], [1.0, 1.0]) == 1
