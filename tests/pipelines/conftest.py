"""A tiny teacher on disk, a recipe that compresses it in seconds, and one run of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from niwaki.distillation.train import next_token_loss
from niwaki.ground.corpus import prepare
from niwaki.ground.loop import fit
from niwaki.ground.stream import Rows
from niwaki.pipelines import compress
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load

from ..conftest import make_tiny_model, write_texts


@pytest.fixture(scope="session")
def trained(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama after it has learned the texts, saved in bfloat16 with its tokenizer and a licence."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = prepare(str(write_texts(folder / "texts")), tokenizer, held_out=0.3)
    model = make_tiny_model()
    rows = Rows(corpus.train.ids, sequence_length=16, seed=0)
    settings = {"num_steps": 80, "batch_rows": 8, "micro_rows": 8, "learning_rate": 1e-2}
    fit(model, rows, next_token_loss, out=folder / "fit", **settings)
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "LICENSE").write_text("Teacher's licence.")
    return folder / "model"


@pytest.fixture
def recipe_file(trained: Path, tmp_path: Path) -> Path:
    """A recipe of its own, beside a `teacher` and `texts` of its own."""
    return write_recipe(tmp_path, trained)


@pytest.fixture
def teacher(recipe_file: Path) -> Path:
    """The teacher of `recipe_file`."""
    return recipe_file.parent / "teacher"


@pytest.fixture(scope="session")
def finished(
    trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], CompressRecipe]:
    """A finished run, what `run` returned, and its recipe. Tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = load(write_recipe(folder, trained), CompressRecipe)
    return folder / "run", compress.run(recipe, out=folder / "run"), recipe


def write_recipe(folder: Path, trained: Path) -> Path:
    """The whole line in a few steps, with two candidates or more and a trial of each."""
    texts = write_texts(folder / "texts")
    teacher = shutil.copytree(trained, folder / "teacher")
    recipe = {
        "kind": "compress",
        "teacher": str(teacher),
        "data": {"source": str(texts), "sequence_length_tokens": 16, "held_out": "30%"},
        "score": {"num_samples": 8, "batch_rows": 4},
        "choose": {
            "to": "60%",
            "tolerance": "20%",
            "grid": {"hidden": [16, 24], "ffn": [24, 32]},
            "trial_tokens": 512,
        },
        "trim": {"rescale": False, "repair": False},  # a bare cut, which leaves much to learn
        "distill": {
            "tokens": 2048,
            "batch_tokens": 64,
            "micro_rows": 2,
            "learning_rate": 3e-3,
            "min_learning_rate": 3e-4,
            "precision": "float32",
            "save_every_steps": 3,
        },
        "evaluate": {"num_tokens": 160, "baseline": "random", "speed": False},
        "report": {"prompts": ["The gardener"]},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
