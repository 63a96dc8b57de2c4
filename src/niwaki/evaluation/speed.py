"""How fast models read and write on this machine, measured against one another in the same minutes.

In: models on the device where they shall run. Out: a `Speed` for each. Rounds take the models in turn,
forwards and then backwards, so that a slow moment of the machine hits all of them and drift cancels; medians
of rounds are reported, and ratios are taken inside a round before their median is.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from niwaki.errors import EvaluationError
from niwaki.evaluation.mode import evaluating


@dataclass(frozen=True)
class Ratio:
    """Median over rounds with its quartiles; above 1 is faster than the first model."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """What `measure_speed` measured of one model.

    Rates count the tokens of all sequences of the batch. `peak_bytes` is what the model alone needs on its
    accelerator (weights, cache, activations), and None on a CPU. `kv_bytes_per_token` is for each sequence.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prefill_ratio: Ratio
    decode_ratio: Ratio
    weights_bytes: int
    peak_bytes: int | None
    kv_bytes_per_token: int


@dataclass(frozen=True)
class _Round:
    """One timing of one model, in seconds; `peak_bytes` None on a CPU."""

    prefill_s: float
    decode_s: float
    peak_bytes: int | None


def measure_speed(
    models: dict[str, PreTrainedModel],
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    batch: int = 1,
    repeats: int = 5,
) -> dict[str, Speed]:
    """Time prefill (`prompt_tokens` at once) and greedy decoding (`new_tokens` one by one, with a cache).

    Args:
        models: by name; ratios are to the first.
        prompt_tokens, new_tokens: per sequence; the tokens of the prompts are random.
        batch: sequences decoded together.
        repeats: measured rounds, after one that only warms up.

    Raises:
        EvaluationError: no models, a count below 1, or more tokens than a model has positions.
    """
    _check(models, prompt_tokens, new_tokens, batch, repeats)
    rounds: dict[str, list[_Round]] = {name: [] for name in models}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for model in models.values():
            stack.enter_context(evaluating(model))
        for number in range(repeats + 1):
            names = list(models) if number % 2 == 0 else list(models)[::-1]
            for name in names:
                measured = _time_round(models[name], prompt_tokens, new_tokens, batch)
                if number > 0:
                    rounds[name].append(measured)
    first = rounds[next(iter(models))]
    return {
        name: _speed(models[name], rounds[name], first, batch * prompt_tokens, batch * new_tokens)
        for name in models
    }


def kv_cache_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes that one more token of one sequence adds to the key-value cache, as long as no window is full."""
    text = config.get_text_config()
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * kv_heads * head_dim * dtype.itemsize


def weights_bytes_on_disk(folder: Path) -> int:
    """Size of the safetensors files of a model folder.

    Raises:
        EvaluationError: there are none.
    """
    sizes = [file.stat().st_size for file in Path(folder).glob("*.safetensors")]
    if not sizes:
        raise EvaluationError(f"{str(folder)!r} holds no safetensors files.", "Give a saved model folder.")
    return sum(sizes)


def _time_round(model: PreTrainedModel, prompt_tokens: int, new_tokens: int, batch: int) -> _Round:
    vocab_size = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(vocab_size, (batch, prompt_tokens), generator=generator).to(model.device)
    on_cuda = model.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
        already_allocated = torch.cuda.memory_allocated(model.device)
    start = _now(model.device)
    output = model(input_ids=prompts, use_cache=True, logits_to_keep=1)
    prefilled = _now(model.device)
    for _ in range(new_tokens):
        tokens: Tensor = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=tokens, past_key_values=output.past_key_values, use_cache=True)
    decoded = _now(model.device)
    peak_bytes = None
    if on_cuda:
        peak_bytes = torch.cuda.max_memory_allocated(model.device) - already_allocated + _weights_bytes(model)
    return _Round(prefilled - start, decoded - prefilled, peak_bytes)


def _now(device: torch.device) -> float:
    """The clock, once everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _speed(
    model: PreTrainedModel, rounds: list[_Round], first: list[_Round], prefilled: int, decoded: int
) -> Speed:
    """Figures of a model from its rounds, the first model's, and the tokens of all sequences."""
    peaks = [each.peak_bytes for each in rounds if each.peak_bytes is not None]
    return Speed(
        prefill_tokens_per_s=prefilled / statistics.median(each.prefill_s for each in rounds),
        decode_tokens_per_s=decoded / statistics.median(each.decode_s for each in rounds),
        prefill_ratio=_ratio([a.prefill_s / b.prefill_s for a, b in zip(first, rounds, strict=True)]),
        decode_ratio=_ratio([a.decode_s / b.decode_s for a, b in zip(first, rounds, strict=True)]),
        weights_bytes=_weights_bytes(model),
        peak_bytes=max(peaks) if peaks else None,
        kv_bytes_per_token=kv_cache_bytes_per_token(model.config, model.dtype),
    )


def _ratio(ratios: list[float]) -> Ratio:
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def _weights_bytes(model: PreTrainedModel) -> int:
    """Bytes of all parameters, tied ones once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def _check(
    models: dict[str, PreTrainedModel], prompt_tokens: int, new_tokens: int, batch: int, repeats: int
) -> None:
    if not models:
        raise EvaluationError("no models to time.", "Pass at least one.")
    counts = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "batch": batch, "repeats": repeats}
    for name, count in counts.items():
        if count < 1:
            raise EvaluationError(f"{name} is {count}; at least 1 was expected.", f"Raise {name}.")
    for name, model in models.items():
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and prompt_tokens + new_tokens > positions:
            raise EvaluationError(
                f"{name!r} has {positions} positions; {prompt_tokens} + {new_tokens} tokens do not fit.",
                "Lower prompt_tokens or new_tokens.",
            )
