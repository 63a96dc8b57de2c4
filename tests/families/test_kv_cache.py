"""The cache size from a config is that of the real cache, in every family, past a sliding window too."""

import pytest
import torch
from tiny import PROMPT, tiny_config, tiny_model

from niwaki.ground.family import FAMILIES, family_of
from niwaki.ground.kv_cache import kv_cache_bytes


@pytest.mark.parametrize("model_type", FAMILIES)
@torch.no_grad()
def test_bytes_are_those_of_a_real_cache(model_type):
    config = tiny_config(model_type)
    cache = tiny_model(config)(PROMPT, use_cache=True).past_key_values
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    sizes = family_of(config).axis_sizes(config)
    rows, context = PROMPT.shape
    assert kv_cache_bytes(config, sizes, context_tokens=context, batch=rows, bytes_per_value=4) == real


def test_a_full_window_grows_no_more():
    config = tiny_config("gemma2")
    sizes = family_of(config).axis_sizes(config)

    def size(context):
        return kv_cache_bytes(config, sizes, context_tokens=context, batch=1, bytes_per_value=2)

    token = 2 * sizes["kv"] * sizes["dim"] * 2
    assert size(3) == 4 * 3 * token
    # Two of the four layers have a window of 4, of which 3 tokens are kept.
    assert size(10) == (2 * 10 + 2 * 3) * token
