"""Texts that models write, to be read side by side.

In: a model, its tokenizer and prompts. Out: one continuation for each prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from niwaki.errors import EvaluationError
from niwaki.evaluation.mode import evaluating
from niwaki.ground.parts import is_in_parts
from niwaki.ground.spread import running

TEMPERATURE = 0.7


def sample_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    seed: int | None = None,
) -> list[str]:
    """Continue each prompt, alone and without padding, until the end-of-text token or `max_new_tokens`.

    The most probable token each time; with a `seed`, drawn at `TEMPERATURE`, and a prompt gives the same text
    whatever the other prompts are. Collective for a model in parts.

    Raises:
        EvaluationError: a prompt without tokens.
    """
    with evaluating(model), running(model):
        return [_continue(model, tokenizer, prompt, max_new_tokens, seed) for prompt in prompts]


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int,
    seed: int | None,
) -> str:
    encoded = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    ids = encoded["input_ids"].long()
    if ids.shape[1] == 0:
        raise EvaluationError(f"prompt {prompt!r} has no tokens.", "Give a prompt with text in it.")
    how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if seed is not None:
        how = {"do_sample": True, "temperature": TEMPERATURE, "top_p": 1.0, "top_k": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0 if seed is None else seed)
        written = model.generate(
            ids.to(model.device),
            attention_mask=encoded["attention_mask"].to(model.device),
            max_new_tokens=max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            synced_gpus=is_in_parts(model),
            **how,
        )[0]
    # Decoded together with the prompt: some tokenizers drop the blank before a text's first word.
    text = tokenizer.decode(written, skip_special_tokens=True)
    return text[len(tokenizer.decode(ids[0], skip_special_tokens=True)) :]
