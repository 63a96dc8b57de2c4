"""A tiny model on disk, and small data in the public forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from niwaki.reward.records import Pair, Rating
from tests.conftest import make_tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def backbone(tmp_path: Path, tokenizer) -> Path:
    """A causal model whose padding is its end of text, without a chat template: what `sapling` is like."""
    folder = tmp_path / "backbone"
    make_tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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
