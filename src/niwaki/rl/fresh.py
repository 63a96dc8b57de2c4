"""A small model from nothing, for tasks that a small model can learn: the demo's, and tests'.

Its tokenizer is byte-level BPE trained on the tasks' own text, with digits kept apart so that numbers are
read and written digit by digit. Any other text still encodes, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from niwaki.ground.folder import new_folder

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
_MARKS = ("<think>", "</think>", "\\boxed{", "}")
_HEAD_DIM = 32


def fresh_model(
    texts: Iterable[str],
    out: Path,
    *,
    hidden: int = 128,
    ffn: int = 384,
    layers: int = 4,
    vocab: int = 512,
    context_tokens: int = 512,
    seed: int = 0,
) -> Path:
    """Write a Llama of random weights, and a tokenizer trained on `texts`, into the new folder `out`.

    Args:
        hidden: a multiple of 32, the size of a head.
        vocab: entries of the tokenizer at most; 256 of them are bytes.
    """
    tokenizer = _tokenizer(texts, vocab)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // _HEAD_DIM),
        num_key_value_heads=max(1, hidden // _HEAD_DIM),
        head_dim=_HEAD_DIM,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
        # At this width the usual 0.02 leaves the first hundreds of steps without effect.
        initializer_range=hidden**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with new_folder(out, needed_bytes=0) as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out


def _tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(_MARKS),
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Ordinary entries, not special ones: they must survive decoding, which leaves special tokens out.
    tokenizer.add_tokens([mark for mark in _MARKS if tokenizer.token_to_id(mark) is None])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PAD)
