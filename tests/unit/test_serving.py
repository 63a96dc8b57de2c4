"""What serving costs: a roofline that can be checked by hand, and limits on it in a recipe."""

import pytest
from transformers import AutoConfig, LlamaConfig

from niwaki.ground.family import family_of
from niwaki.pipelines.devices import DEVICES, Device
from niwaki.pipelines.limits import limits_of
from niwaki.pipelines.plan import shape_of
from niwaki.pipelines.serving import Request, ServingCost, modelled_latency_s, serving_cost
from niwaki.recipe.pruning import Choose, Limits

LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=False,
)
SLOW_MEMORY = Device(flops_per_s=1e30, bytes_per_s=1e9)
SLOW_ARITHMETIC = Device(flops_per_s=1e9, bytes_per_s=1e30)
LOOKUP = 128256 * 4096


def cost(config, request, device, **sizes):
    family = family_of(config)
    sizes = family.axis_sizes(config) | sizes
    resized = family.resize(config, sizes)
    return serving_cost(shape_of(family, resized, sizes), resized, request, bytes_per_weight=2, device=device)


def test_bytes_of_llama_8b():
    found = cost(LLAMA_8B, Request(batch=2, prompt_tokens=900, new_tokens=100), None)
    assert found.weights_bytes == 2 * 8_030_261_248
    # keys and values, 32 layers, 8 heads of 128, bfloat16: 131,072 bytes a token
    assert found.kv_cache_bytes == 2 * 1000 * 131_072
    assert found.latency_s is None


def test_where_memory_is_slow_each_token_reads_the_weights_and_the_cache():
    request = Request(batch=4, prompt_tokens=100, new_tokens=10)
    weights = 2 * (8_030_261_248 - LOOKUP)
    expected = (weights + 4 * 100 * 131_072) + 10 * (weights + 4 * 105 * 131_072)
    assert cost(LLAMA_8B, request, SLOW_MEMORY).latency_s == pytest.approx(expected / 1e9)


def test_where_arithmetic_is_slow_prompts_cost_and_their_logits_do_not():
    request = Request(batch=4, prompt_tokens=100, new_tokens=10)
    layers = 6_979_584_000 + 4096
    # two products of 32 heads x 128 with each of the tokens before, in 32 layers
    attention = 4 * 32 * 32 * 128
    prompt = 4 * 100 * (2 * layers + attention * 50) + 4 * 2 * LOOKUP
    decoded = 10 * 4 * (2 * (layers + LOOKUP) + attention * 105)
    found = cost(LLAMA_8B, request, SLOW_ARITHMETIC).latency_s
    assert found == pytest.approx((prompt + decoded) / 1e9, rel=1e-6)


def test_more_tokens_at_once_read_more_experts_but_never_more_than_there_are():
    config = AutoConfig.for_model("mixtral", num_local_experts=8, num_experts_per_tok=2)
    family = family_of(config)
    sizes = family.axis_sizes(config)
    shape = shape_of(family, config, sizes)

    def read_s(batch):
        request = Request(batch=batch, prompt_tokens=1, new_tokens=1)
        return modelled_latency_s(shape, config, request, bytes_per_weight=2, device=SLOW_MEMORY)

    cache_bytes = 2 * 32 * sizes["kv"] * sizes["dim"] * 2
    working = shape.num_parameters - sizes["vocab"] * sizes["hidden"]
    assert read_s(1) * 1e9 == pytest.approx(2 * (2 * shape.num_active_parameters + cache_bytes))
    assert read_s(1) < read_s(4) < read_s(400)
    assert read_s(400) * 1e9 == pytest.approx(2 * (2 * working + 400 * cache_bytes))


def test_at_equal_size_depth_beats_width_the_more_the_cache_weighs():
    """Llama-3.1-Minitron 4B, arXiv 2408.11796: half the layers halve the cache, narrower ones leave it."""
    leads = []
    for request in (Request(batch=1, prompt_tokens=512, new_tokens=128), Request(64, 4096, 512)):
        whole = cost(LLAMA_8B, request, DEVICES["h100"]).latency_s
        depth = cost(LLAMA_8B, request, DEVICES["h100"], layer=16).latency_s
        width = cost(LLAMA_8B, request, DEVICES["h100"], hidden=3072, ffn=9216).latency_s
        assert depth < width < whole
        leads.append(width / depth)
    assert leads[1] > 1.4 > leads[0]


def test_limits_are_shares_of_the_teacher_or_amounts():
    costs = {8: ServingCost(800, 80, 8.0), 4: ServingCost(400, 40, 4.0)}
    limits = {"weights": "60%", "kv_cache": "50B", "latency": "25%"}
    choose = Choose.model_validate({"to": "50%", "limits": limits, "device": "h100"})
    found = limits_of(choose, {"layer": 8}, lambda sizes: costs[sizes["layer"]], None)
    assert [(limit.name, limit.most) for limit in found] == [
        ("weights", 480),
        ("kv_cache", 50),
        ("latency", 2),
    ]
    assert [limit.measure({"layer": 4}) for limit in found] == [400, 40, 4.0]


def test_a_latency_measured_here_is_asked_of_the_stopwatch_and_left_out_without_one():
    choose = Choose.model_validate({"to": "50%", "limits": {"latency": "50%"}, "device": "here"})

    def cost_of(sizes):
        return ServingCost(1, 1)

    assert limits_of(choose, {"layer": 8}, cost_of, None) == []
    (limit,) = limits_of(choose, {"layer": 8}, cost_of, lambda sizes: sizes["layer"] / 10)
    assert (limit.most, limit.measure({"layer": 4})) == (0.4, 0.4)


def test_the_recipe_and_the_table_name_the_same_devices():
    expected = Choose.model_fields["device"].annotation
    named = {name for part in expected.__args__ for name in getattr(part, "__args__", ())}
    assert named == {"here", *DEVICES}
    assert Limits.model_fields.keys() == {"weights", "kv_cache", "latency"}
