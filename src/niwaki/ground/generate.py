"""Sampling completions of prompts, in seeded batches.

In: a causal language model, its tokenizer, prompts. Out: for each prompt some `Sample`s. Every sample has an
end: its end-of-text token, or the limit, which is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from niwaki.errors import EvaluationError
from niwaki.ground.progress import progress

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Sample:
    """One completion. `num_tokens` counts the end-of-text token; `ended` is False when the limit cut it."""

    text: str
    num_tokens: int
    ended: bool


def as_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> Prompt:
    """`text` as a user's turn where the tokenizer has a chat template, else as it is."""
    return [{"role": "user", "content": text}] if tokenizer.chat_template else text


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens that a model answers `text` from, template and beginning-of-text token included."""
    prompt = as_prompt(tokenizer, text)
    if isinstance(prompt, str):
        ids: list[int] = tokenizer(prompt).input_ids
        return ids
    return list(
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    )


def prompt_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the tokenizer's template puts before the model's turn; empty without a template.

    Templates of reasoning models may end in `<think>`: the completion then begins inside the thought.
    """
    prompt = as_prompt(tokenizer, "?")
    if isinstance(prompt, str):
        return ""
    text: str = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return text.rpartition("?")[2]


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion of this model.

    Raises:
        EvaluationError: neither model nor tokenizer names one.
    """
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [declared] if isinstance(declared, int) else list(declared or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.insert(0, int(tokenizer.eos_token_id))
    if not ids:
        raise EvaluationError(
            "The model has no end-of-text token, so no completion could end.",
            "Set eos_token in its tokenizer.",
        )
    return ids


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    num_samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int,
    batch_rows: int = 128,
    seed: int = 0,
    label: str = "sampling",
    shown: bool = True,
    keep: Callable[[Sequence[int], list[list[Sample]]], None] | None = None,
) -> list[list[Sample]]:
    """`num_samples` completions of each prompt, in the order of the prompts.

    Args:
        prompts: texts as a user writes them; see `as_prompt`.
        temperature: 0 takes the likeliest token each time, and then `num_samples` must be 1.
        batch_rows: completions generated side by side.
        seed: fixes every sample, given the same prompts and `batch_rows`. Without the prompts of the first
            batches the others get the same samples, so a killed evaluation goes on as it would have.
        keep: called with the numbers of the prompts of a batch and their samples as soon as they are there.

    Raises:
        EvaluationError: several samples at temperature 0, or a model without an end-of-text token.
    """
    if temperature == 0 and num_samples > 1:
        raise EvaluationError(
            f"{num_samples} samples at temperature 0 are all the same.", "Ask for one, or raise temperature."
        )
    ends = end_ids(model, tokenizer)
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    # Prompts of like length share a batch, so that little of it is padding.
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), i))
    per_batch = max(1, batch_rows // num_samples)
    batches = [order[i : i + per_batch] for i in range(0, len(order), per_batch)]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        num_return_sequences=num_samples,
        pad_token_id=pad,
        eos_token_id=ends,
        **({"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}),
    )
    found: list[list[Sample]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), progress(label, total=len(batches), shown=shown) as bar:
        for batch in batches:
            torch.manual_seed((seed * 1_000_003 + crc32(prompts[batch[0]].encode())) % 2**63)
            ids, mask = _left_padded([encoded[i] for i in batch], pad, model.device)
            written: Any = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            rows = written[:, ids.shape[1] :].tolist()
            for place, index in enumerate(batch):
                own = rows[place * num_samples : (place + 1) * num_samples]
                found[index] = [_sample(tokenizer, row, ends) for row in own]
            if keep is not None:
                keep(batch, [found[index] for index in batch])
            bar.advance()
    model.train(was_training)
    return found


def _sample(tokenizer: PreTrainedTokenizerBase, row: list[int], ends: list[int]) -> Sample:
    end = next((place for place, token in enumerate(row) if token in ends), None)
    ids = row if end is None else row[: end + 1]
    return Sample(tokenizer.decode(ids, skip_special_tokens=True), len(ids), end is not None)


def _left_padded(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
