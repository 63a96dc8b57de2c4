"""What the stages of a reason run share: where its model is, and the questions that it is evaluated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.model import local_folder
from niwaki.pipelines.questions import Curated
from niwaki.recipe.reason import ReasonRecipe
from niwaki.verify.question import Question, read_questions

FRESH_FOLDER = "fresh"


def start_folder(recipe: ReasonRecipe, out: Path) -> Path:
    """The model that GRPO starts from."""
    return out / "3-warm-up" / "model" if recipe.warm_up is not None else local_folder(recipe.model)


def model_facts(recipe: ReasonRecipe) -> dict[str, Any]:
    """What identifies the model that the run starts from."""
    if recipe.fresh is not None:
        return {"model": "fresh"}
    folder = local_folder(recipe.model)
    return {"model": recipe.model, "fingerprint": Checkpoint(folder).fingerprint()}


def benchmark_questions(recipe: ReasonRecipe, curated: Curated) -> dict[str, list[Question]]:
    """The held-out questions of each benchmark, the first `evaluate.max_questions` of it."""
    limit = recipe.evaluate.max_questions
    return {name: list(read_questions(file))[:limit] for name, file in curated.benchmarks.items()}
