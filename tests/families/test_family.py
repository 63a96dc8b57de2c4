"""What a family does beyond the conformance suite: configs, coupled axes, refusals."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny import NUM_LAYERS, tiny, tiny_config, trimmed
from transformers import AutoConfig, PretrainedConfig

from niwaki.errors import FamilyError
from niwaki.ground.family import FAMILIES, family_of

KEPT = torch.tensor([0, 2, 3])
REQUIRED = "llama mistral qwen2 qwen3 gemma2 gemma3_text nemotron phi3 olmo2 smollm3 granite gpt_neox mixtral"

COUPLED = {"phi3", "gpt_neox"}
FREE = FAMILIES.keys() - COUPLED


def without_layer_1(config):
    return family_of(config).resize(config, {"layer": 3}, {"layer": KEPT})


def test_the_promised_families_are_there():
    assert {*REQUIRED.split(), "qwen3_moe"} <= FAMILIES.keys()


def test_an_unknown_model_type_names_the_known_and_the_nearest():
    config = PretrainedConfig()
    config.model_type = "qwen4"
    with pytest.raises(FamilyError, match=r"'qwen4'.*Did you mean 'qwen[23]'.*docs/families.md") as caught:
        family_of(config)
    assert all(name in caught.value.message for name in FAMILIES)


def test_a_tensor_without_a_line_is_refused_by_name():
    family = family_of(tiny_config("qwen3"))
    with pytest.raises(FamilyError) as caught:
        family.match("model.layers.0.self_attn.sinks")
    assert str(caught.value) == (
        "qwen3: no axis entry for 'model.layers.0.self_attn.sinks'. "
        "Add a line to families/dense.py; see docs/families.md."
    )


def test_a_tensor_with_two_lines_is_refused_by_name():
    family = family_of(tiny_config("llama"))
    twice = replace(family, tensors=family.tensors | {"model.layers.0.mlp.up_proj.weight": "ffn hidden"})
    with pytest.raises(FamilyError, match=r"matched by .*\{layer\}.* and .*layers\.0"):
        twice.match("model.layers.0.mlp.up_proj.weight")
    assert twice.match("model.layers.1.mlp.up_proj.weight").layer == 1


def test_match_tells_layer_and_expert():
    family = family_of(tiny_config("mixtral"))
    found = family.match("model.layers.3.block_sparse_moe.experts.11.w2.weight")
    assert (found.expr, found.layer, found.expert) == ("hidden effn", 3, 11)


def test_tensors_that_no_model_reads_are_dropped():
    family = family_of(tiny_config("gpt_neox"))
    sizes = family.axis_sizes(tiny_config("gpt_neox"))
    assert family.take("gpt_neox.layers.0.attention.masked_bias", torch.zeros(()), sizes, {}) is None


def test_dropped_experts_are_renumbered_per_layer_on_disk():
    config = tiny_config("mixtral")
    family = family_of(config)
    sizes = family.axis_sizes(config)
    keep = {
        "expert": torch.tensor([[0, 4], [1, 2], [1, 2], [1, 2]]),
        "effn": torch.arange(20).repeat(4, 5, 1).reshape(4, 5, 20)[:, :, :3].clone(),
    }
    keep["effn"][0, 4] = torch.tensor([5, 6, 7])
    weight = torch.arange(20)[:, None].expand(20, 60)
    name, cut = family.take("model.layers.0.block_sparse_moe.experts.4.w1.weight", weight, sizes, keep)
    assert name == "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    assert cut[:, 0].tolist() == [5, 6, 7]
    assert family.take("model.layers.1.block_sparse_moe.experts.4.w1.weight", weight, sizes, keep) is None


@pytest.mark.parametrize("model_type", sorted(FREE))
def test_head_dim_is_always_explicit(model_type):
    config = tiny_config(model_type, hidden_size=96, head_dim=None)
    family = family_of(config)
    new = family.resize(config, {"hidden": 48})
    assert new.head_dim == family.axis_sizes(config)["dim"] == family.axis_sizes(new)["dim"]
    assert new.to_dict()["head_dim"] == new.head_dim


def test_resize_leaves_the_config_it_was_given_alone():
    config = tiny_config("smollm3")
    before = config.to_dict()
    without_layer_1(config)
    assert config.to_dict() == before


def test_per_layer_lists_lose_the_entry_of_the_dropped_layer():
    new = without_layer_1(tiny_config("smollm3"))
    assert new.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    assert new.no_rope_layers == [1, 1, 0]
    assert new.num_hidden_layers == 3


@pytest.mark.parametrize("start, expected", [(2, 1), (3, 2), (4, 4), (28, 28)])
def test_max_window_layers_counts_the_layers_that_stay_before_it(start, expected):
    assert without_layer_1(tiny_config("qwen2", max_window_layers=start)).max_window_layers == expected


def test_a_per_layer_list_that_no_table_names_is_refused():
    config = tiny_config("llama", residual_gains=[1.0] * NUM_LAYERS)
    with pytest.raises(FamilyError, match=r"'residual_gains'.*per_layer_fields"):
        without_layer_1(config)


def test_lists_about_tokens_are_not_mistaken_for_lists_about_layers():
    assert without_layer_1(tiny_config("llama", eos_token_id=[2, 3, 4, 5])).eos_token_id == [2, 3, 4, 5]


def test_the_number_of_experts_is_written_through_its_alias():
    config = tiny_config("qwen3_moe")
    new = family_of(config).resize(config, {"expert": 3})
    assert new.num_experts == new.num_local_experts == 3


def test_fewer_experts_than_a_token_uses_are_refused():
    config = tiny_config("mixtral")
    with pytest.raises(FamilyError, match="num_experts_per_tok=2"):
        family_of(config).resize(config, {"expert": 1})


@pytest.mark.parametrize("changes", [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}])
def test_layers_without_experts_are_refused(changes):
    with pytest.raises(FamilyError, match=next(iter(changes))):
        family_of(tiny_config("qwen3_moe", **changes))


@pytest.mark.parametrize("field", ["embedding_multiplier", "residual_multiplier", "attention_multiplier"])
def test_scalar_multipliers_are_kept(field):
    config = tiny_config("granite")
    assert getattr(family_of(config).resize(config, {"hidden": 32}), field) == getattr(config, field)


def test_query_scaling_is_kept():
    config = tiny_config("gemma2", query_pre_attn_scalar=8)
    assert family_of(config).resize(config, {"group": 1}).query_pre_attn_scalar == 8


@pytest.mark.parametrize("sizes", [{"dim": 4}, {"vocab": 50}, {"effn": 8}, {"layer": 0}])
def test_sizes_that_cannot_be_set_are_refused_by_axis(sizes):
    config = tiny_config("llama")
    with pytest.raises(FamilyError, match=repr(next(iter(sizes)))):
        family_of(config).resize(config, sizes)


def test_keep_and_sizes_must_agree():
    config = tiny_config("llama")
    with pytest.raises(FamilyError, match=r"2 layers.* 3"):
        family_of(config).resize(config, {"layer": 3}, {"layer": torch.tensor([0, 1])})


@pytest.mark.parametrize("model_type", sorted(COUPLED))
def test_coupled_axes_name_the_rule_and_the_nearest_sizes(model_type):
    family = family_of(tiny_config(model_type))
    sizes = {"layer": 4, "hidden": 40, "ffn": 56, "kv": 3, "group": 2, "dim": 8, "vocab": 90}
    with pytest.raises(FamilyError, match="hidden must equal kv \\* group \\* dim") as caught:
        family.check(sizes)
    assert "hidden=48" in caught.value.remedy
    assert "kv=2 with hidden=32" in caught.value.remedy
    family.check(sizes | {"hidden": 48})


@pytest.mark.parametrize("model_type", sorted(FREE))
def test_check_refuses_what_the_config_class_refuses(model_type):
    """6 heads of 8 at hidden 62: some config classes want a multiple of 6, though head_dim is there."""
    family = family_of(tiny_config(model_type))
    fields = tiny_config(model_type).to_dict() | {"hidden_size": 62}
    try:
        AutoConfig.for_model(**fields)
        refused = False
    except StrictDataclassError:
        refused = True
    assert family.heads_divide_hidden == refused
    sizes = family.axis_sizes(tiny_config(model_type))
    if refused:
        with pytest.raises(FamilyError, match=r"multiple of the number of heads.*hidden=60 or 66"):
            family.check(sizes | {"hidden": 62})
    else:
        family.check(sizes | {"hidden": 62})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gemma3_text"])
def test_scaled_embeddings_and_tied_heads_keep_their_scale(model_type, tied):
    family, config, model = tiny(model_type, tie_word_embeddings=tied)
    channels = torch.arange(0, 36)
    small = trimmed(family, config, model.state_dict(), {"hidden": channels})
    tokens = torch.arange(90)
    with torch.no_grad():
        whole = model.get_input_embeddings()(tokens)[:, channels]
        torch.testing.assert_close(small.get_input_embeddings()(tokens), whole, rtol=1e-5, atol=1e-6)
        # A stream whose mean square is the same over the kept channels and over all of them.
        stream = torch.zeros(1, 60)
        stream[:, channels] = torch.randn(1, 36)
        gain = (60 / 36) ** 0.5
        expected = model.lm_head(model.model.norm(stream)) / gain
        got = small.lm_head(small.model.norm(stream[:, channels]))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_docs_list_every_family_with_its_axes():
    page = Path(__file__).parents[2] / "docs" / "families.md"
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", page.read_text(), re.MULTILINE)
    assert dict(rows) == {name: " ".join(family.axes) for name, family in FAMILIES.items()}
