"""Speed: what is counted, how rounds are ordered, and what is refused. Never how fast."""

import dataclasses
import itertools
import json

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from niwaki.errors import EvaluationError
from niwaki.evaluation import speed
from niwaki.evaluation.speed import kv_cache_bytes_per_token, measure_speed, weights_bytes_on_disk

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def tiny(config_type=LlamaConfig, model_type=LlamaForCausalLM, **changes):
    torch.manual_seed(0)
    return model_type(config_type(**(SIZES | {"num_attention_heads": 4} | changes))).eval()


@pytest.mark.parametrize(
    "model",
    [
        tiny(num_key_value_heads=2),
        tiny(Qwen3Config, Qwen3ForCausalLM, num_key_value_heads=1, head_dim=16),
        tiny(GPTNeoXConfig, GPTNeoXForCausalLM),
    ],
    ids=["llama", "qwen3", "gpt_neox"],
)
@torch.no_grad()
def test_cache_bytes_from_the_config_are_those_of_a_real_cache(model):
    cache = model(input_ids=torch.ones(3, 7, dtype=torch.long), use_cache=True).past_key_values
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache_bytes_per_token(model.config, model.dtype) * 3 * 7 == real
    assert kv_cache_bytes_per_token(model.config, torch.bfloat16) * 2 * 3 * 7 == real


def test_rates_and_ratios_follow_from_the_clock(monkeypatch):
    """Model b takes twice as long; in each round the machine is slower than in the one before."""
    slow = tiny(num_hidden_layers=1)
    slowdown = itertools.count(1)

    def time_round(model, prompt_tokens, new_tokens, batch):
        factor = next(slowdown) * (2 if model is slow else 1)
        return speed._Round(prefill_s=1.0 * factor, decode_s=10.0 * factor, peak_bytes=None)

    monkeypatch.setattr(speed, "_time_round", time_round)
    found = measure_speed({"a": tiny(), "b": slow}, prompt_tokens=8, new_tokens=4, batch=2, repeats=3)
    # after the warm-up (1, 2) the rounds run b a, a b, b a: a at 4, 5, 8 and b at 2 * (3, 6, 7)
    assert found["a"].prefill_tokens_per_s == pytest.approx(2 * 8 / 5)
    assert found["a"].decode_tokens_per_s == pytest.approx(2 * 4 / 50)
    assert found["b"].prefill_tokens_per_s == pytest.approx(2 * 8 / 12)
    assert found["a"].prefill_ratio == speed.Ratio(1.0, 1.0, 1.0)
    assert found["b"].decode_ratio.median == pytest.approx(8 / 14)
    assert found["b"].decode_ratio.low == pytest.approx((5 / 12 + 8 / 14) / 2)
    assert found["b"].decode_ratio.high == pytest.approx((8 / 14 + 4 / 6) / 2)


def test_a_round_reads_the_prompt_once_and_then_one_token_at_a_time():
    model, shapes = tiny().train(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = measure_speed({"only": model}, prompt_tokens=9, new_tokens=3, batch=2, repeats=1)["only"]
    assert shapes == [(2, 9), (2, 1), (2, 1), (2, 1)] * 2
    assert model.training
    assert found.prefill_tokens_per_s > 0
    assert found.decode_tokens_per_s > 0
    assert found.peak_bytes is None
    assert json.loads(json.dumps(dataclasses.asdict(found)))["decode_ratio"]["median"] == 1.0


def test_tied_weights_are_counted_once():
    untied, tied = tiny(), tiny(tie_word_embeddings=True)
    found = measure_speed({"a": untied, "b": tied}, prompt_tokens=2, new_tokens=1, batch=1, repeats=1)
    assert found["a"].weights_bytes - found["b"].weights_bytes == 64 * 32 * 4


def test_disk_size_is_that_of_the_weights(tmp_path):
    tiny().save_pretrained(tmp_path)
    size = weights_bytes_on_disk(tmp_path)
    assert size == (tmp_path / "model.safetensors").stat().st_size
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EvaluationError, match="no safetensors"):
        weights_bytes_on_disk(tmp_path)


def test_what_cannot_be_timed_is_refused():
    sizes = {"prompt_tokens": 4, "new_tokens": 4, "batch": 1, "repeats": 1}
    with pytest.raises(EvaluationError, match="no models"):
        measure_speed({}, **sizes)
    with pytest.raises(EvaluationError, match="repeats is 0"):
        measure_speed({"a": tiny()}, **(sizes | {"repeats": 0}))
    with pytest.raises(EvaluationError, match="'a' has 7 positions"):
        measure_speed({"a": tiny(max_position_embeddings=7)}, **sizes)
