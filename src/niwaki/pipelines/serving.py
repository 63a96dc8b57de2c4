"""What serving a shape costs: weights, key-value cache, and the time to answer one request.

The time is a roofline (Williams, Waterman and Patterson, 2009): prefill and each decoded token take as long
as their FLOPs or their bytes do, whichever is longer, at the peak rates of a device. It is a lower bound: it
knows nothing of the time to launch kernels, which grows with the number of layers and rules small models.
Measure where you can (`pipelines/stopwatch.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from niwaki.ground.kv_cache import kv_cache_bytes
from niwaki.pipelines.costs import Shape
from niwaki.pipelines.devices import Device


@dataclass(frozen=True)
class Request:
    """`batch` sequences that read `prompt_tokens` at once and write `new_tokens` one by one."""

    batch: int
    prompt_tokens: int
    new_tokens: int

    @property
    def context_tokens(self) -> int:
        """Tokens of one sequence at the end."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True)
class ServingCost:
    """Bytes of the weights, of the cache at the end of the request, and its latency where it is known."""

    weights_bytes: int
    kv_cache_bytes: int
    latency_s: float | None = None


def serving_cost(
    shape: Shape, config: PreTrainedConfig, request: Request, *, bytes_per_weight: int, device: Device | None
) -> ServingCost:
    """Costs of a model of this `shape` and `config`; the latency on `device` is modelled, without one None.

    Where depth is cut and layers differ (sliding windows), `config` says which layers are counted.
    """
    return ServingCost(
        weights_bytes=shape.num_parameters * bytes_per_weight,
        kv_cache_bytes=_cache_bytes(shape, config, request.batch, request.context_tokens, bytes_per_weight),
        latency_s=None
        if device is None
        else modelled_latency_s(shape, config, request, bytes_per_weight=bytes_per_weight, device=device),
    )


def modelled_latency_s(
    shape: Shape, config: PreTrainedConfig, request: Request, *, bytes_per_weight: int, device: Device
) -> float:
    """Seconds from the prompt to the last token.

    Decoding is taken at the middle of its context. Of a prompt, only the last position needs logits.
    """

    def step_s(flops: float, num_tokens: int, cached_tokens: int) -> float:
        read = _read_parameters(shape, config, num_tokens) * bytes_per_weight
        read += _cache_bytes(shape, config, request.batch, cached_tokens, bytes_per_weight)
        return max(flops / device.flops_per_s, read / device.bytes_per_s)

    prompts = request.batch * request.prompt_tokens
    head = 2 * shape.sizes["vocab"] * shape.sizes["hidden"] * (prompts - request.batch)
    prefill_s = step_s(
        prompts * shape.forward_flops(request.prompt_tokens) - head, prompts, request.prompt_tokens
    )
    middle = request.prompt_tokens + request.new_tokens // 2
    # `forward_flops` is the mean over a row, whose tokens see half of it.
    token_s = step_s(request.batch * shape.forward_flops(2 * middle), request.batch, middle)
    return prefill_s + request.new_tokens * token_s


def _cache_bytes(
    shape: Shape, config: PreTrainedConfig, batch: int, context_tokens: int, bytes_per_value: int
) -> int:
    return kv_cache_bytes(
        config, shape.sizes, context_tokens=context_tokens, batch=batch, bytes_per_value=bytes_per_value
    )


def _read_parameters(shape: Shape, config: PreTrainedConfig, num_tokens: int) -> float:
    """Weights that `num_tokens` together read, at random choice of experts: those any of them visits."""
    tied = bool(getattr(config, "tie_word_embeddings", False))
    working = shape.num_parameters - (0 if tied else shape.sizes["vocab"] * shape.sizes["hidden"])
    idle = working - shape.num_active_parameters
    if not idle:
        return working
    missed = 1 - getattr(config, "num_experts_per_tok", 1) / shape.sizes["expert"]
    return working - idle * missed ** (num_tokens - 1)
