"""The kinds of recipes, and a recipe file of any kind -> its frozen recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml

from niwaki.errors import RecipeError
from niwaki.recipe import compress, curate, family, reason, reward, sparsify
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.curate import CurateRecipe
from niwaki.recipe.family import FamilyRecipe
from niwaki.recipe.load import nearest, parse, read_text
from niwaki.recipe.reason import ReasonRecipe
from niwaki.recipe.reward import RewardRecipe
from niwaki.recipe.sparsify import SparsifyRecipe

Recipe = CompressRecipe | FamilyRecipe | CurateRecipe | ReasonRecipe | RewardRecipe | SparsifyRecipe


class Kind(NamedTuple):
    """One kind of recipe: its schema, and what `niwaki new KIND` writes."""

    schema: type[Recipe]
    starter: Callable[[], Recipe]


KINDS: dict[str, Kind] = {
    "compress": Kind(CompressRecipe, compress.starter),
    "family": Kind(FamilyRecipe, family.starter),
    "sparsify": Kind(SparsifyRecipe, sparsify.starter),
    "curate": Kind(CurateRecipe, curate.starter),
    "reason": Kind(ReasonRecipe, reason.starter),
    "reward": Kind(RewardRecipe, reward.starter),
}


def load_recipe(path: Path | str) -> Recipe:
    """Read the recipe file `path` as what its `kind` says. Raises RecipeError as `recipe.load.load` does."""
    return parse_recipe(read_text(path), name=str(path))


def parse_recipe(text: str, *, name: str) -> Recipe:
    """Read the recipe in `text`; errors call it `name`. Raises RecipeError as `recipe.load.load` does."""
    return parse(text, _kind(kind_of(text), name).schema, name=name)


def kind_of(text: str) -> object:
    """What a recipe says it is; a compress recipe where it says nothing."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        content = None  # `parse` says where it is broken
    return content.get("kind", "compress") if isinstance(content, dict) else "compress"


def starter(kind: str) -> Recipe:
    """What `niwaki new KIND` writes. Raises RecipeError naming the kinds there are."""
    return _kind(kind, "niwaki new").starter()


def _kind(kind: object, name: str) -> Kind:
    if not isinstance(kind, str) or kind not in KINDS:
        meant = nearest(str(kind), list(KINDS))
        raise RecipeError(
            f"{name}: there is no recipe of kind {kind!r}." + (f" Did you mean {meant!r}?" if meant else ""),
            f"Kinds: {', '.join(KINDS)}.",
        )
    return KINDS[kind]
