"""A YAML file -> a frozen recipe, or one error with every problem, its line and the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from niwaki.errors import RecipeError

Recipe = TypeVar("Recipe", bound=BaseModel)
# More than any recipe has; aliases of aliases can stand for billions.
MOST_PLACES = 10_000
_Location = tuple[int | str, ...]


def load(path: Path | str, schema: type[Recipe]) -> Recipe:
    """Read the recipe file `path` as `schema`.

    Raises RecipeError for a missing file, broken YAML, a key given twice, and, all in one message, for every
    unknown key, missing key and unusable value.
    """
    return parse(read_text(path), schema, name=str(path))


def read_text(path: Path | str) -> str:
    """The text of the recipe file `path`. Raises RecipeError when it is missing or no text."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: there is no such recipe.", "Start one with `niwaki new compress`, or check the path."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path}: cannot be read as text ({error}).", "A recipe is a YAML file in UTF-8."
        ) from None


def parse(text: str, schema: type[Recipe], *, name: str) -> Recipe:
    """Read the recipe in `text`; errors call it `name`. Raises RecipeError as `load` does."""
    tree, content = _read_yaml(text, name)
    if not isinstance(content, dict):
        raise RecipeError(
            f"{name}: a recipe is a list of 'key: value' lines, not {type(content).__name__}.",
            "Start one with `niwaki new compress`.",
        )
    return build(content, schema, name=name, lines=dict(_lines(tree)) if tree is not None else {})


def build(
    content: dict[str, Any],
    schema: type[Recipe],
    *,
    name: str,
    lines: Mapping[tuple[int | str, ...], int] = MappingProxyType({}),
) -> Recipe:
    """Check `content` as `schema`. `lines` gives the line of a location, such as ("distill", "tokens").

    Raises RecipeError with every problem, in the order of the lines.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        details = [d for d in error.errors(include_url=False) if d["type"] != "default_factory_not_called"]
    found = sorted((_problem(detail, schema, lines) for detail in details), key=lambda each: each[0])
    problems = [f"{name}:{line}: {what}" if line else f"{name}: {what}" for line, what in found]
    heading = [f"{name}: {len(problems)} problems:"] if len(problems) > 1 else []
    raise RecipeError("\n".join(heading + problems), "Every key is described in docs/recipes.md.")


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that `word` was most likely meant to be, if any is near."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def _read_yaml(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        if _num_places(tree) > MOST_PLACES:
            raise RecipeError(
                f"{name}: with its aliases written out, it has more than {MOST_PLACES:,} places.",
                "Write a recipe without such aliases.",
            )
        _refuse_duplicates(tree, name)
        return tree, yaml.safe_load(text)
    except (ValueError, RecursionError) as error:  # of dates and numbers, and of nests and loops
        raise RecipeError(
            f"{name}: a value cannot be read ({type(error).__name__}: {str(error)[:200]}).",
            "Put dates and long numbers in quotes, and nest nothing deeper than the starter recipe does.",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        what = getattr(error, "problem", None) or str(error)
        raise RecipeError(
            f"{where}: this is not YAML: {what}.", "Check indentation, colons and quotes there."
        ) from None


def _num_places(node: yaml.Node | None, most: int = MOST_PLACES) -> int:
    """Values in the tree with every alias written out, counted up to `most`; a loop is a RecursionError."""
    children: Sequence[yaml.Node] = ()
    if isinstance(node, yaml.MappingNode):
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    count = 1
    for child in children:
        if count > most:
            break
        count += _num_places(child, most - count)
    return count


def _refuse_duplicates(node: yaml.Node | None, name: str) -> None:
    """PyYAML keeps the last of two equal keys and says nothing."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{name}:{line}: a key must be a word.", "Every key is in docs/recipes.md.")
            if key.value in seen:
                raise RecipeError(
                    f"{name}:{line}: the key '{key.value}' is given twice, first in line {seen[key.value]}.",
                    "Keep one of the two.",
                )
            seen[key.value] = line
            _refuse_duplicates(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, name)


def _lines(node: yaml.Node, location: _Location = ()) -> Iterator[tuple[_Location, int]]:
    """Every location in the file with its line, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*location, key.value), key.start_mark.line + 1
            yield from _lines(value, (*location, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*location, index), value.start_mark.line + 1
            yield from _lines(value, (*location, index))


def _problem(
    detail: ErrorDetails, schema: type[BaseModel], lines: Mapping[_Location, int]
) -> tuple[int, str]:
    """The line of a problem (0 when the file has none for it) and the sentence about it."""
    location = tuple(part for part in detail["loc"] if part != "[key]")
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), 0)
    path = ".".join(str(part) for part in location)
    return line, f"{path}: {_sentence(detail, schema, location)}" if path else _sentence(detail, schema, ())


def _sentence(detail: ErrorDetails, schema: type[BaseModel], location: _Location) -> str:
    kind, found, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(location[-1]), schema, location[:-1])
    if kind == "missing":
        field = _section(schema, location[:-1]).model_fields[str(location[-1])]
        return f"this key is required: {field.description or 'see docs/recipes.md'}."
    if kind == "literal_error":
        return _not_one_of(found, context["expected"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_type":
        return f"{found!r} is not text. Put it in quotes if that is what you meant."
    if kind in ("model_type", "dict_type", "tuple_type"):
        wanted = "a list, such as [a, b]" if kind == "tuple_type" else "a section of 'key: value' lines"
        return f"{found!r} is not {wanted}."
    message = detail["msg"].removeprefix("Input should be ")
    return f"{found!r} does not fit: it should be {message}."


def _unknown_key(key: str, schema: type[BaseModel], section: _Location) -> str:
    here = list(_section(schema, section).model_fields)
    if (meant := nearest(key, here)) is not None:
        return f"unknown key. Did you mean '{meant}'?"
    for name, field in schema.model_fields.items():
        nested = _model_of(field.annotation)
        if nested is not None and key in nested.model_fields:
            return f"unknown key here. Did you mean '{name}.{key}'?"
    if section and key in schema.model_fields:
        return f"unknown key here. Did you mean '{key}' without indentation?"
    return f"unknown key. Known here: {', '.join(here)}."


def _not_one_of(found: object, expected: str) -> str:
    known = [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(",")]
    meant = nearest(str(found), known)
    return f"{found!r} is not one of {', '.join(known)}." + (f" Did you mean '{meant}'?" if meant else "")


def _section(schema: type[BaseModel], location: _Location) -> type[BaseModel]:
    for part in location:
        if isinstance(part, int):  # a place in a list of sections
            continue
        nested = _model_of(schema.model_fields[part].annotation)
        assert nested is not None, f"{part} is not a section"
        schema = nested
    return schema


def _model_of(annotation: object) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
