"""Tiny models on disk, small data in the public forms, and the recipe of a whole line over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from niwaki.recipe.load import build
from niwaki.recipe.reward import RewardRecipe
from niwaki.reward.records import Pair, Rating
from tests.conftest import make_tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WORDS = ("pine", "maple", "juniper", "yew")
TRAINING = {
    "learning_rate": 1e-3,
    "batch_rows": 16,
    "micro_rows": 8,
    "warmup_steps": 1,
    "precision": "float32",
}


@pytest.fixture
def backbone(tmp_path: Path, tokenizer) -> Path:
    """A causal model whose padding is its end of text, without a chat template: what `sapling` is like."""
    folder = tmp_path / "backbone"
    make_tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(tmp_path: Path, tokenizer) -> Path:
    """A tiny BERT with a tokenizer that has its special tokens and no end of text."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    folder = tmp_path / "bert"
    BertModel(config).save_pretrained(folder)
    own = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    own.model_max_length = 128
    own.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs() -> list[Pair]:
    """Forty pairs: the better answer says more trees; strengths 1 to 3."""
    found = []
    for i in range(40):
        prompt = ({"role": "user", "content": f"Name {i} trees."},)
        found.append(
            Pair(f"row {i}", prompt, "pine tree " * (2 + i % 3), "stone", 1.0 + i % 3, 1.0, "ab"[i % 2])
        )
    return found


@pytest.fixture
def ratings(pairs) -> list[Rating]:
    """Both answers of each pair, rated on two attributes; one is missing now and then."""
    found = []
    for pair in pairs:
        for answer, value in ((pair.chosen, 4.0), (pair.rejected, 1.0)):
            rated = {"helpfulness": value, "verbosity": float(len(answer) % 5)}
            if pair.row.endswith("7"):
                del rated["verbosity"]
            found.append(Rating(pair.row, pair.prompt, answer, rated, pair.source))
    return found


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def write_answers(folder: Path) -> tuple[Path, Path]:
    """Pairs and ratings whose better answers name a tree."""
    pairs, rated = [], []
    for i in range(120):
        ask, good, bad = (
            f"Name {WORDS[i % 4]} {i}.",
            f"{WORDS[i % 4]} tree " * (1 + i % 3),
            "stone " * (1 + i % 4),
        )
        pairs.append({"prompt": ask, "chosen": good, "rejected": bad, "strength": 1 + i % 3})
        for answer, value in ((good, 4), (bad, 1)):
            rated.append({"prompt": ask, "response": answer, "helpfulness": value, "style": (i + value) % 5})
    return write_rows(folder / "pairs.jsonl", pairs), write_rows(folder / "ratings.jsonl", rated)


def recipe_of(backbone: Path, tmp_path: Path, **changes) -> RewardRecipe:
    """The whole line on `write_answers`, with other sections where `changes` say so."""
    pairs, rated = write_answers(tmp_path)
    content = {
        "kind": "reward",
        "backbone": str(backbone),
        "data": {
            "pairs": [{"source": str(pairs)}],
            "ratings": [{"source": str(rated), "scale": [0, 4]}],
            "validation": 0.2,
            "test": 0.2,
            "max_tokens": 128,
        },
        "regression": TRAINING,
        "preference": TRAINING,
        "expo": {"grid": [1, 1.5]},
        "objectives": {"ensemble": 3, "gate": {"width": 8, "steps": 10, "batch_rows": 32}},
        "export": {"forms": ["heads", "gated"]},
    }
    return build(content | changes, RewardRecipe, name="test")
