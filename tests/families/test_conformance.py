"""What every family's table must satisfy. A contributor adds a family by writing lines until this passes."""

import re
from collections import Counter
from functools import cache

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import NUM_LAYERS, OPTIONAL_BIASES, WITH_BIASES, logits, permutation, smaller, subset, trimmed
from transformers import AutoModelForCausalLM

from niwaki.ground.axes import axes_of
from niwaki.ground.family import FAMILIES, family_of
from niwaki.ground.model import build_meta, count_parameters

ALL = sorted(FAMILIES)
AXES = [(name, axis) for name in ALL for axis in FAMILIES[name].axes]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@cache
def built(model_type):
    """Family, config, state, logits; no test changes them."""
    family, config, model = tiny.tiny(model_type, **(WITH_BIASES if model_type in OPTIONAL_BIASES else {}))
    return family, config, {name: t.clone() for name, t in model.state_dict().items()}, logits(model)


def generator():
    return torch.Generator().manual_seed(3)


def all_kept(family, sizes):
    new = smaller(family, sizes)
    return {axis: subset(axis, size, sizes, generator()) for axis, size in new.items()}


@pytest.mark.parametrize("changes", [{}, WITH_BIASES], ids=["plain", "biases"])
@pytest.mark.parametrize("model_type", ALL)
def test_every_tensor_has_one_line_and_every_line_a_tensor(model_type, changes):
    config = tiny.tiny_config(model_type, **changes)
    family = family_of(config)
    model = build_meta(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert family.shapes(family.axis_sizes(config)) == shapes
    assert Counter(family.match(name).pattern for name in shapes).keys() == family.tensors.keys()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("model_type", ALL)
def test_table_counts_what_transformers_builds(model_type, tied):
    config = tiny.tiny_config(model_type, tie_word_embeddings=tied)
    family = family_of(config)
    sizes = family.axis_sizes(config)
    assert family.count(sizes, tied=tied) == count_parameters(build_meta(config))
    resized = family.resize(config, smaller(family, sizes))
    assert family.count(family.axis_sizes(resized), tied=tied) == count_parameters(build_meta(resized))


@pytest.mark.parametrize("model_type, axis", [(m, a) for m, a in AXES if a != "layer"])
def test_permuting_an_axis_everywhere_does_not_move_the_logits(model_type, axis):
    family, config, state, expected = built(model_type)
    sizes = family.axis_sizes(config)
    keep = {axis: permutation(axis, sizes, generator())}
    torch.testing.assert_close(logits(trimmed(family, config, state, keep)), expected, **CLOSE)


def can_be_dead(family, axis):
    """Trimming silent units of this axis alone must be an identity."""
    if axis == "expert":  # The router still chooses a silent expert.
        return False
    if axis in ("kv", "group") and family.hidden_is_heads:  # Heads cannot be trimmed without hidden.
        return False
    norms = [expr for name, expr in family.tensors.items() if re.search(r"norm\.weight$", name)]
    return all(axis not in axes_of(expr) for expr in norms)  # Its mean would run over fewer entries.


DEAD = [(m, a) for m, a in AXES if can_be_dead(FAMILIES[m], a)]


@pytest.mark.parametrize("model_type, axis", DEAD)
def test_trimming_dead_units_does_not_move_the_logits(model_type, axis):
    family, config, state, _ = built(model_type)
    sizes = family.axis_sizes(config)
    keep = {axis: subset(axis, smaller(family, sizes)[axis], sizes, generator())}
    silenced = {}
    for name, tensor in state.items():
        positions = torch.arange(tensor.numel()).reshape(tensor.shape)
        kept = family.take(name, positions, sizes, keep)
        alive = torch.zeros(tensor.numel(), dtype=torch.bool)
        if kept is not None:
            alive[kept[1].flatten()] = True
        silenced[name] = tensor * alive.reshape(tensor.shape)
    whole = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    whole.load_state_dict(silenced)
    torch.testing.assert_close(logits(trimmed(family, config, silenced, keep)), logits(whole), **CLOSE)


@pytest.mark.parametrize("model_type", ALL)
def test_keeping_everything_is_the_identity_bit_for_bit(model_type):
    family, config, state, _ = built(model_type)
    sizes = family.axis_sizes(config)
    keep = {axis: subset(axis, sizes[axis], sizes, generator()) for axis in family.axes}
    for name, tensor in state.items():
        new_name, kept = family.take(name, tensor, sizes, keep)
        assert new_name == name
        assert torch.equal(kept, tensor)
    assert family.resize(config, sizes, keep).to_dict() == family.resize(config, {}).to_dict()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("model_type", ALL)
def test_trim_save_and_stock_reload(model_type, tied, tmp_path):
    """The saved checkpoint, cut name by name as it lies on disk, loads as the model cut in memory."""
    family, config, model = tiny.tiny(model_type, tie_word_embeddings=tied)
    sizes = family.axis_sizes(config)
    keep = all_kept(family, sizes)
    small = trimmed(family, config, model.state_dict(), keep)
    model.save_pretrained(tmp_path / "whole")
    saved = load_file(tmp_path / "whole" / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in saved.items()} == family.shapes(sizes, saved=True)

    taken = [family.take(name, tensor, sizes, keep) for name, tensor in saved.items()]
    cut = dict(each for each in taken if each is not None)
    new = family.axis_sizes(small.config)
    assert new == sizes | smaller(family, sizes)
    assert {name: tuple(t.shape) for name, t in cut.items()} == family.shapes(new, saved=True)
    family.resize(config, new, keep).save_pretrained(tmp_path / "cut")
    save_file(cut, tmp_path / "cut" / "model.safetensors", metadata={"format": "pt"})

    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "cut", attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(logits(loaded.eval()), logits(small))
    assert count_parameters(loaded) == family.count(new, tied=tied)


@pytest.mark.parametrize("model_type", ALL)
def test_sites_are_modules_that_carry_their_axis(model_type):
    family, config, _, _ = built(model_type)
    model = build_meta(config)
    sizes = family.axis_sizes(config)
    sites = family.sites
    for layer in range(NUM_LAYERS):
        model.get_submodule(sites.block.format(layer=layer))
        heads = model.get_submodule(sites.heads.format(layer=layer))
        assert heads.in_features == sizes["kv"] * sizes["group"] * sizes["dim"]
        if sites.ffn is not None:
            assert model.get_submodule(sites.ffn.format(layer=layer)).in_features == sizes["ffn"]
        for norm in sites.norms:
            assert model.get_submodule(norm.format(layer=layer)).weight.shape == (sizes["hidden"],)
    assert (sites.ffn is None) == ("expert" in sizes)
    assert len(sites.norms) == 2
    assert model.get_submodule(sites.embedding) is model.get_input_embeddings()
    assert model.get_submodule(sites.head) is model.get_output_embeddings()
    assert model.get_submodule(sites.final_norm).weight.shape == (sizes["hidden"],)


@pytest.mark.parametrize("model_type", ALL)
def test_linears_are_the_linear_modules_and_experts_of_the_layers(model_type):
    family, config, _, _ = built(model_type)
    model = build_meta(config)
    expected = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != family.head
    } | {name for name, parameter in model.named_parameters() if parameter.ndim == 3}
    written = {pattern.format(layer=layer) for pattern in family.linears for layer in range(NUM_LAYERS)}
    assert written == expected
