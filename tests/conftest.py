"""What many tests need: a tiny model, a tiny tokenizer, and a cache that no run outside the tests sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# No test asserts a time, on a busy machine either.
settings.register_profile("niwaki", deadline=None)
settings.load_profile("niwaki")

SENTENCES = [
    "The gardener cut the old branch and waited.",
    "A niwaki is shaped over many years by pruning.",
    "Every small tree remembers the large one.",
    "Roots first, then the crown, then the light.",
]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("NIWAKI_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 300 entries."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """A Llama of two layers with fixed random weights and a vocabulary of 300."""
    return make_tiny_model()


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A folder of sixty small texts."""
    return write_texts(tmp_path / "texts")


def make_tiny_model() -> LlamaForCausalLM:
    """See `tiny_model`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def write_texts(folder: Path) -> Path:
    """See `text_folder`."""
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02d}.txt").write_text(f"{SENTENCES[i % 4]} Number {i}.\n" * 8)
    return folder
