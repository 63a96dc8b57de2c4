"""Which units survive."""

import pytest
import torch

from niwaki.errors import EvaluationError, FamilyError, RecipeError
from niwaki.pruning.select import drop, select

SIZES = {
    "layer": 4,
    "hidden": 4,
    "ffn": 3,
    "kv": 2,
    "group": 2,
    "expert": 3,
    "effn": 2,
    "dim": 8,
    "vocab": 10,
}


@pytest.fixture
def importance():
    return {
        "layer": torch.tensor([0.9, 0.3, 0.2, 0.1]),
        "hidden": torch.tensor([5.0, 1, 2, 3]),
        "ffn": torch.stack([torch.tensor([3.0, 1, 2]).roll(layer) for layer in range(4)]),
        "kv": torch.tensor([3.0, 17]).expand(4, -1),
        "group": torch.tensor([[1.0, 2], [9, 8]]).expand(4, -1, -1),
        "expert": torch.tensor([1.0, 3, 2]).expand(4, -1),
        "effn": torch.tensor([[1.0, 2], [9, 8], [0, 3]]).expand(4, -1, -1),
    }


def kept(importance, axis, size, **arguments):
    return select(importance, SIZES, {**SIZES, axis: size}, **arguments)[axis].tolist()


def test_neurons_are_ranked_inside_each_layer_and_keep_their_order(importance):
    assert kept(importance, "ffn", 2) == [[0, 2], [0, 1], [1, 2], [0, 2]]


def test_query_heads_are_ranked_inside_each_key_value_head(importance):
    assert kept(importance, "group", 1) == [[[1], [0]]] * 4


def test_key_value_heads_and_experts_are_ranked_inside_each_layer(importance):
    assert kept(importance, "kv", 1) == [[1]] * 4
    assert kept(importance, "expert", 2) == [[1, 2]] * 4


def test_neurons_of_experts_are_ranked_inside_each_expert(importance):
    assert kept(importance, "effn", 1) == [[[1], [0], [1]]] * 4


def test_hidden_channels_are_ranked_once(importance):
    assert kept(importance, "hidden", 2) == [0, 3]


def test_of_equal_importances_the_lower_index_stays():
    assert kept({"hidden": torch.ones(4)}, "hidden", 3) == [0, 1, 2]


def test_the_full_size_keeps_every_axis_whole(importance):
    assert select(importance, SIZES, SIZES) == {}


def test_one_or_two_layers_go_by_least_influence_but_not_the_first_or_last():
    assert drop(torch.tensor([0.0, 0.3, 0.2, 0.1, 0.0]), 1) == [3]
    assert drop(torch.tensor([0.0, 0.1, 0.9, 0.2, 0.0]), 2) == [1, 3]


def test_more_layers_go_as_the_block_of_least_summed_influence_before_the_last():
    influence = torch.tensor([0.9, 0.5, 0.1, 0.1, 0.1, 0.5, 0.0, 0.0, 0.0])
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


def test_layers_can_be_dropped_by_name(importance):
    assert kept(importance, "layer", 2, drop_layers=[3, 1]) == [0, 2]


@pytest.mark.parametrize("named", [[1], [1, 1], [1, 4]])
def test_named_layers_must_make_the_size(importance, named):
    with pytest.raises(RecipeError, match="2 of 4 layers go"):
        select(importance, SIZES, {"layer": 2}, drop_layers=named)


@pytest.mark.parametrize(("axis", "size"), [("ffn", 4), ("ffn", 0), ("width", 2)])
def test_a_size_the_model_does_not_have_is_refused(importance, axis, size):
    with pytest.raises(RecipeError, match=f"{axis}={size}"):
        select(importance, SIZES, {axis: size})


def test_an_axis_without_importance_is_refused_by_name():
    with pytest.raises(FamilyError, match="'ffn' has no importance; there is one for hidden"):
        select({"hidden": torch.ones(4)}, SIZES, {"ffn": 2})
    with pytest.raises(FamilyError, match="'layer' has no importance"):
        select({}, SIZES, {"layer": 2})


def test_named_layers_need_no_importance():
    assert select({}, SIZES, {"layer": 3}, drop_layers=[1])["layer"].tolist() == [0, 2, 3]


def test_importance_of_another_model_is_refused(importance):
    with pytest.raises(FamilyError, match=r"'ffn' has shape \[4, 2\], expected \[4, 3\]"):
        select(importance | {"ffn": torch.ones(4, 2)}, SIZES, {"ffn": 1})


def test_importance_that_is_not_finite_is_refused(importance):
    with pytest.raises(EvaluationError, match="'hidden' holds NaN"):
        select(importance | {"hidden": torch.tensor([1.0, torch.nan, 2, 3])}, SIZES, {"hidden": 2})
