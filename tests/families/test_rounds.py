"""Scoring in rounds: the sizes on the way, and that two cuts are one cut, in every family."""

import pytest
import tiny
import torch

from niwaki.errors import FamilyError, RecipeError
from niwaki.ground.family import FAMILIES
from niwaki.pruning.measures import magnitude
from niwaki.pruning.memory_cut import cut_model
from niwaki.pruning.rounds import compose, round_sizes, select_in_rounds
from niwaki.pruning.select import select

LLAMA = {"layer": 32, "hidden": 6144, "ffn": 24576, "kv": 8, "group": 6, "dim": 128, "vocab": 256000}


@pytest.fixture(scope="module")
def qwen3():
    return tiny.tiny("qwen3")


def test_the_sizes_of_the_paper(qwen3):
    found = round_sizes(qwen3[0], LLAMA, {"hidden": 4096}, num_rounds=4)
    assert [sizes["hidden"] for sizes in found] == [5632, 5120, 4608, 4096]
    assert all(sizes == LLAMA | {"hidden": sizes["hidden"]} for sizes in found)


def test_layers_go_in_the_first_round_and_parts_of_units_stay(qwen3):
    found = round_sizes(qwen3[0], LLAMA, {"layer": 16, "kv": 5}, num_rounds=2)
    assert [(sizes["layer"], sizes["kv"]) for sizes in found] == [(16, 7), (16, 5)]


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt_neox"])
def test_on_the_way_hidden_stays_what_the_family_can_express_beside_its_heads(model_type):
    family = tiny.tiny(model_type)[0]
    full = {"layer": 4, "hidden": 96, "ffn": 64, "kv": 6, "group": 2, "dim": 8, "vocab": 90}
    target = {"hidden": 24, "kv": 3, "group": 1}
    if model_type == "gpt_neox":
        full, target = full | {"kv": 12, "group": 1}, {"hidden": 24, "kv": 3}
    found = round_sizes(family, full, target, num_rounds=3)
    assert found[-1] == full | target
    for sizes in found:
        family.check(sizes)


def test_rounds_that_cannot_be_are_refused(qwen3):
    with pytest.raises(RecipeError, match="rounds is 0"):
        round_sizes(qwen3[0], LLAMA, {"hidden": 4096}, num_rounds=0)
    llama = tiny.tiny("llama")[0]
    full = {"layer": 4, "hidden": 60, "ffn": 64, "kv": 1, "group": 20, "dim": 8, "vocab": 90}
    with pytest.raises(FamilyError, match=r"round 1 of 2 finds no hidden size from 60 to 60 .* 16 heads"):
        round_sizes(llama, full, {"group": 12}, num_rounds=2)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_two_cuts_are_the_one_that_they_make_together(model_type):
    family, config, model = tiny.tiny(model_type)
    sizes, generator = family.axis_sizes(config), torch.Generator().manual_seed(5)
    between = tiny.smaller(family, sizes)
    end = {"layer": 2, "hidden": 24, "ffn": 24, "kv": 1, "group": 1, "expert": 3, "effn": 8}
    end = {axis: end[axis] for axis in family.axes}
    if family.hidden_is_heads:
        end["hidden"] = sizes["dim"]
    first = {axis: tiny.subset(axis, size, sizes, generator) for axis, size in between.items()}
    smaller = sizes | between
    second = {axis: tiny.subset(axis, size, smaller, generator) for axis, size in end.items()}
    twice = cut_model(cut_model(model, first), second)
    once = cut_model(model, compose(first, second, sizes))
    assert twice.state_dict().keys() == once.state_dict().keys()
    for name, tensor in twice.state_dict().items():
        torch.testing.assert_close(once.state_dict()[name], tensor, rtol=1e-6, atol=0)


def test_a_cut_composed_with_none_is_itself(qwen3):
    family, config, _ = qwen3
    sizes, generator = family.axis_sizes(config), torch.Generator().manual_seed(5)
    keep = {axis: tiny.subset(axis, n, sizes, generator) for axis, n in tiny.smaller(family, sizes).items()}
    for outer, inner in ((keep, {}), ({}, keep)):
        composed = compose(outer, inner, sizes)
        assert composed.keys() == keep.keys()
        assert all(torch.equal(composed[axis], keep[axis]) for axis in keep)


@pytest.mark.parametrize("model_type", ["qwen3", "mixtral"])
def test_every_round_measures_what_the_round_before_has_left(model_type):
    family, config, model = tiny.tiny(model_type)
    sizes = tiny.smaller(family, family.axis_sizes(config))
    seen = []

    def measure(now):
        seen.append(family.axis_sizes(now.config))
        return magnitude(now)

    keep = select_in_rounds(model, measure, sizes, num_rounds=3)
    full = family.axis_sizes(config)
    assert seen == [full, *round_sizes(family, full, sizes, num_rounds=3)[:-1]]
    student = cut_model(model, keep)
    assert family.axis_sizes(student.config) == full | sizes
    known = select_in_rounds(model, measure, sizes, num_rounds=3, first=magnitude(model))
    assert all(torch.equal(known[axis], keep[axis]) for axis in keep)


def test_one_round_is_select_and_named_layers_are_of_the_original(qwen3):
    family, config, model = qwen3
    full = family.axis_sizes(config)
    sizes = {"hidden": 32, "ffn": 40, "layer": 3}
    once = select(magnitude(model), full, sizes, drop_layers=[2])
    for num_rounds in (1, 2):
        keep = select_in_rounds(model, magnitude, sizes, num_rounds=num_rounds, drop_layers=[2])
        assert keep["layer"].tolist() == [0, 1, 3]
        assert num_rounds > 1 or all(torch.equal(keep[axis], once[axis]) for axis in once)


def test_a_neuron_that_the_first_round_made_useless_goes_in_the_second(qwen3):
    """Neuron 0 writes to hidden channel 59 alone: heavy at first, nothing when that channel has gone."""
    model = tiny.tiny_model(qwen3[1])
    with torch.no_grad():
        for layer in model.model.layers:
            for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj):
                matrix.weight[0] = 0
            layer.mlp.down_proj.weight[:, 0] = 0
            layer.mlp.down_proj.weight[59, 0] = 9.0

    def measure(now):
        return magnitude(now) | {"hidden": torch.arange(now.config.hidden_size).flip(0)}

    sizes = {"hidden": 30, "ffn": 40}
    at_once = select_in_rounds(model, measure, sizes, num_rounds=1)
    in_rounds = select_in_rounds(model, measure, sizes, num_rounds=2)
    assert (at_once["ffn"][:, 0] == 0).all()
    assert (in_rounds["ffn"] != 0).all()


def test_a_cut_in_memory_leaves_the_model_as_it_was_and_shares_nothing(qwen3):
    model = tiny.tiny_model(qwen3[1]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    student = cut_model(model, {"ffn": torch.arange(8).expand(4, -1)})
    assert student.training
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_tied_model_is_still_tied_and_keeps_dtype_and_generation_config():
    family, _, model = tiny.tiny("llama", tie_word_embeddings=True)
    model.generation_config.max_new_tokens = 17
    student = cut_model(model.bfloat16(), {"hidden": torch.arange(0, 60, 2)})
    assert student.lm_head.weight is student.model.embed_tokens.weight
    assert student.dtype == torch.bfloat16
    assert student.generation_config.max_new_tokens == 17
    assert student.config._attn_implementation == "eager"
    assert family.axis_sizes(student.config)["hidden"] == 30
    with pytest.raises(FamilyError, match="expected 0 to 59"):
        cut_model(model, {"hidden": torch.tensor([60])})
