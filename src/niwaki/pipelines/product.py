"""The one model that a run is for: where it lies, and the card beside it."""

from __future__ import annotations

from pathlib import Path

from niwaki.errors import RunError
from niwaki.ground.model import local_folder
from niwaki.ground.run import is_done
from niwaki.pipelines.open_run import MANIFEST, RECIPE
from niwaki.recipe.kinds import Recipe, load_recipe
from niwaki.recipe.reward import RewardRecipe
from niwaki.reporting.card import read_card, write_card

# Kind of run -> the stage whose `model/` it exists for.
PRODUCTS = {"compress": "4-distill", "sparsify": "3-apply", "reward": "7-calibrate", "reason": "4-rl"}
_JUSTIFIER = "9-justify"


def product_folder(run: Path) -> Path:
    """The folder of the model that a finished run made.

    Raises:
        RunError: no run, a run of a kind that makes no single model, or one that is not finished.
    """
    if not (run / RECIPE).is_file() or not (run / MANIFEST).is_file():
        raise RunError(
            f"{run} is not a run directory.", "Give one that `niwaki run` wrote, such as runs/demo."
        )
    recipe = load_recipe(run / RECIPE)
    kind = recipe.kind
    if kind not in PRODUCTS:
        raise RunError(
            f"{run}: is of kind {kind}; {', '.join(PRODUCTS)} make one model.",
            "Give one of the members." if kind == "family" else "Give a run of another kind.",
        )
    stage = _stage(recipe)
    if not is_done(run, stage):
        raise RunError(
            f"{run}: stage {stage} has not finished, so there is no model yet.",
            f"Finish it first: niwaki run {run}",
        )
    return run / stage / "model"


def _stage(recipe: Recipe) -> str:
    """The stage that makes the recipe's model. A reward recipe may ask for a justifier alone."""
    if isinstance(recipe, RewardRecipe) and not recipe.scores:
        return _JUSTIFIER
    return PRODUCTS[recipe.kind]


def source_folder(run: Path) -> Path | None:
    """The folder of the model that the run began with; None where it began with random weights."""
    source = read_card(run).source
    return None if source is None else local_folder(source)


def write_product_card(run: Path, kind: str) -> None:
    """The card beside the run's model, if there is one yet."""
    for name in (PRODUCTS[kind], *([_JUSTIFIER] if kind == "reward" else [])):
        model = run / name / "model"
        if (model / "config.json").exists():
            write_card(run, model, source_dir=source_folder(run))
            return
