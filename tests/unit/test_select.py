"""Which units survive."""

import pytest
import torch

from niwaki.errors import FamilyError, RecipeError
from niwaki.pruning.scores import Scores
from niwaki.pruning.select import drop, select

SIZES = {"layer": 4, "hidden": 4, "ffn": 3, "kv": 2, "group": 2, "dim": 8, "vocab": 10}


@pytest.fixture
def scores():
    """Scores of one sample, so that the (l2, mean) importance is the value added."""
    scores = Scores(sizes=SIZES, provenance={}, num_samples=1, num_tokens=1)
    for layer in range(4):
        key = f"layers.{layer}"
        scores.add_samples(f"{key}.ffn.mean", torch.tensor([[3.0, 1, 2]]).roll(layer, 1))
        scores.add_samples(f"{key}.group.mean", torch.tensor([[[1.0, 2], [9, 8]]]))
        scores.add_samples(f"{key}.hidden.0.mean", torch.tensor([[0.0, 1, 2, 3]]))
        scores.add_samples(f"{key}.hidden.1.mean", torch.tensor([[5.0, 0, 0, 0]]))
        scores.add(f"{key}.cosine_sum", torch.tensor([0.1, 0.7, 0.8, 0.9][layer]))
    return scores


def kept(scores, axis, size, **arguments):
    return select(scores, {**SIZES, axis: size}, **arguments)[axis].tolist()


def test_neurons_are_ranked_inside_each_layer_and_keep_their_order(scores):
    assert kept(scores, "ffn", 2) == [[0, 2], [0, 1], [1, 2], [0, 2]]


def test_query_heads_are_ranked_inside_each_key_value_head(scores):
    assert kept(scores, "group", 1) == [[[1], [0]]] * 4


def test_a_key_value_head_counts_as_much_as_its_query_heads(scores):
    assert kept(scores, "kv", 1) == [[1]] * 4


def test_hidden_channels_are_ranked_by_their_sum_over_layers_and_norms(scores):
    assert kept(scores, "hidden", 2) == [0, 3]


def test_of_equal_scores_the_lower_index_stays(scores):
    scores.sums = {key: torch.ones_like(value) for key, value in scores.sums.items()}
    assert kept(scores, "hidden", 3) == [0, 1, 2]


def test_the_full_size_keeps_every_axis_whole(scores):
    assert select(scores, SIZES) == {}


def test_one_or_two_layers_go_by_least_influence_but_not_the_first_or_last():
    assert drop(torch.tensor([0.0, 0.3, 0.2, 0.1, 0.0]), 1) == [3]
    assert drop(torch.tensor([0.0, 0.1, 0.9, 0.2, 0.0]), 2) == [1, 3]


def test_more_layers_go_as_the_block_of_least_summed_influence_before_the_last():
    influence = torch.tensor([0.9, 0.5, 0.1, 0.1, 0.1, 0.5, 0.0, 0.0, 0.0])
    assert drop(influence, 3) == [5, 6, 7] or influence[2:5].sum() < influence[5:8].sum()
    assert drop(influence, 3) == [2, 3, 4]


def test_the_first_layer_goes_only_when_nothing_else_is_left_and_the_last_never():
    influence = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
    assert drop(influence, 3) == [1, 2, 3]
    assert drop(influence, 4) == [0, 1, 2, 3]
    with pytest.raises(RecipeError, match="5 of 5"):
        drop(influence, 5)


def test_the_published_block_of_half_the_layers_ends_before_the_last():
    """Layers 17 to 31 of 32 (counted from 1) do little here; Minitron drops 16 to 31 and keeps 32."""
    influence = torch.tensor([0.5] * 15 + [0.1] * 16 + [0.0])
    assert drop(influence, 16) == list(range(15, 31))


def test_layers_can_be_dropped_by_name(scores):
    assert kept(scores, "layer", 2, drop_layers=[3, 1]) == [0, 2]


@pytest.mark.parametrize("named", [[1], [1, 1], [1, 4]])
def test_named_layers_must_make_the_size(scores, named):
    with pytest.raises(RecipeError, match="2 of 4 layers go"):
        select(scores, {"layer": 2}, drop_layers=named)


@pytest.mark.parametrize(("axis", "size"), [("ffn", 4), ("ffn", 0), ("expert", 2)])
def test_a_size_the_model_does_not_have_is_refused(scores, axis, size):
    with pytest.raises(RecipeError, match=f"{axis}={size}"):
        select(scores, {axis: size})


def test_an_axis_without_scores_is_refused_by_name(scores):
    with pytest.raises(FamilyError, match="'vocab'"):
        select(scores, {"vocab": 5})
