"""A tiny teacher on disk, a recipe that compresses it in seconds, and one run of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from niwaki.pipelines import compress
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load

from ..conftest import make_tiny_model, write_texts


@pytest.fixture
def recipe_file(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A recipe of its own, beside a `teacher` and `texts` of its own."""
    return write_recipe(tmp_path, tokenizer)


@pytest.fixture
def teacher(recipe_file: Path) -> Path:
    """The teacher of `recipe_file`."""
    return recipe_file.parent / "teacher"


@pytest.fixture(scope="session")
def finished(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], CompressRecipe]:
    """A finished run, what `run` returned, and its recipe. Tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = load(write_recipe(folder, tokenizer), CompressRecipe)
    return folder / "run", compress.run(recipe, out=folder / "run"), recipe


def write_recipe(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The whole line in a few steps, with two candidates or more and a trial of each."""
    teacher, texts = folder / "teacher", write_texts(folder / "texts")
    model = make_tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.ndim == 2 else 1.0)  # sure of itself, so that there is much to learn
    model.to(torch.bfloat16).save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    (teacher / "LICENSE").write_text("Teacher's licence.")
    recipe = {
        "kind": "compress",
        "teacher": str(teacher),
        "data": {"source": str(texts), "sequence_length_tokens": 16, "held_out": "30%"},
        "score": {"num_samples": 8, "batch_rows": 4},
        "choose": {
            "to": "60%",
            "tolerance": "20%",
            "grid": {"hidden": [16, 24], "ffn": [24, 32]},
            "trial_tokens": 64,
        },
        "distill": {
            "tokens": 1024,
            "batch_tokens": 64,
            "micro_rows": 2,
            "learning_rate": 1e-2,
            "min_learning_rate": 1e-3,
            "precision": "float32",
            "save_every_steps": 3,
        },
        "evaluate": {"num_tokens": 160, "baseline": "random", "speed": False},
        "report": {"prompts": ["The gardener"]},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
