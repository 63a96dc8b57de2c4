"""Size of the key-value cache, from a config alone, layers with a sliding window included."""

from __future__ import annotations

from transformers import DynamicCache, PreTrainedConfig

from niwaki.ground.axes import Sizes


def kv_cache_bytes(
    config: PreTrainedConfig, sizes: Sizes, *, context_tokens: int, batch: int, bytes_per_value: int
) -> int:
    """Bytes that `batch` sequences of `context_tokens` each keep of keys and values.

    A layer with a sliding window of W tokens keeps the last W - 1, as `transformers` does: the next token is
    the W-th. `sizes` (axis -> size) are those of `config`.
    """
    layers = DynamicCache(config=config).layers
    windows = [getattr(layer, "sliding_window", None) for layer in layers]
    num_tokens = sum(min(context_tokens, window - 1) if window else context_tokens for window in windows)
    return 2 * batch * num_tokens * sizes["kv"] * sizes["dim"] * bytes_per_value
