"""A recipe file or a run directory, as the user named it -> the recipe, and the directory to work in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from niwaki.errors import RecipeError

if TYPE_CHECKING:
    from niwaki.recipe.compress import CompressRecipe
    from niwaki.recipe.kinds import Recipe


def open_recipe(path: Path, out: Path | None) -> tuple[Recipe, Path]:
    """The recipe at `path`, or in the run directory `path`, and the run directory to work in."""
    from niwaki.recipe.kinds import load_recipe

    if path.is_dir():
        return load_recipe(path / "recipe.yaml"), out or path
    recipe = load_recipe(path)
    return recipe, out or Path(recipe.out or Path("runs") / path.stem)


def open_compress(path: Path, out: Path | None) -> tuple[CompressRecipe, Path]:
    """As `open_recipe`, for the stages of a compress run. Raises RecipeError for any other kind."""
    recipe, run_directory = open_recipe(path, out)
    if recipe.kind == "compress":
        return recipe, run_directory
    if recipe.kind == "family":
        raise RecipeError(
            f"{path}: a family has no stages; its members have.",
            f"Give the run directory of a member, such as {run_directory / recipe.folders[0]}.",
        )
    raise RecipeError(
        f"{path}: this is a stage of a compress run, and the recipe is of kind {recipe.kind}.",
        "Use `niwaki run`; the same command goes on with what is not done yet.",
    )
