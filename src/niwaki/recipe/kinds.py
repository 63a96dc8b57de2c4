"""The kinds of recipes, and a recipe file of any kind -> its frozen recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from niwaki.errors import RecipeError
from niwaki.recipe import compress, family
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.family import FamilyRecipe
from niwaki.recipe.load import nearest, parse, read_text

SCHEMAS: dict[str, type[CompressRecipe] | type[FamilyRecipe]] = {
    "compress": CompressRecipe,
    "family": FamilyRecipe,
}
_STARTERS: dict[str, Callable[[], CompressRecipe | FamilyRecipe]] = {
    "compress": compress.starter,
    "family": family.starter,
}


def load_recipe(path: Path | str) -> CompressRecipe | FamilyRecipe:
    """Read the recipe file `path` as what its `kind` says. Raises RecipeError as `recipe.load.load` does."""
    return parse_recipe(read_text(path), name=str(path))


def parse_recipe(text: str, *, name: str) -> CompressRecipe | FamilyRecipe:
    """Read the recipe in `text`; errors call it `name`. Raises RecipeError as `recipe.load.load` does."""
    return parse(text, schema_of(kind_of(text), name), name=name)


def kind_of(text: str) -> object:
    """What a recipe says it is; a compress recipe where it says nothing."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        content = None  # `parse` says where it is broken
    return content.get("kind", "compress") if isinstance(content, dict) else "compress"


def schema_of(kind: object, name: str) -> type[CompressRecipe] | type[FamilyRecipe]:
    """The schema of a kind. Raises RecipeError naming the kinds there are."""
    if not isinstance(kind, str) or kind not in SCHEMAS:
        meant = nearest(str(kind), list(SCHEMAS))
        raise RecipeError(
            f"{name}: there is no recipe of kind {kind!r}." + (f" Did you mean {meant!r}?" if meant else ""),
            f"Kinds: {', '.join(SCHEMAS)}.",
        )
    return SCHEMAS[kind]


def starter(kind: str) -> CompressRecipe | FamilyRecipe:
    """What `niwaki new KIND` writes. Raises RecipeError naming the kinds there are."""
    schema_of(kind, "niwaki new")
    return _STARTERS[kind]()
