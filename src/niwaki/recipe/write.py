"""A recipe -> YAML: the resolved one of a run, and the commented one that `niwaki new` starts people with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

_COMMENT_COLUMN = 34


class _Dumper(yaml.SafeDumper):
    """Lists in one line, line breaks as \\n."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if "\n" in text else None
    ),
)


def dump(recipe: BaseModel) -> str:
    """The resolved recipe, defaults included; `load.parse` reads it back to an equal object."""
    return yaml.dump(
        recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


def commented(recipe: BaseModel) -> str:
    """The recipe with the description of every key beside it, sections apart."""
    return "\n".join([f"# {_first_sentence(recipe)}", *_rows(recipe, indent="")]) + "\n"


def _rows(section: BaseModel, *, indent: str) -> Iterator[str]:
    written = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            if not indent:
                yield ""
            yield f"{indent}{key}:".ljust(_COMMENT_COLUMN) + f"# {_first_sentence(value)}"
            yield from _rows(value, indent=indent + "  ")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield ""
            yield _row(f"{indent}{key}", None, field.description).replace(": null", ":     ")
            for item in value:
                first, *others = _rows(item, indent=indent + "    ")
                yield f"{indent}  - {first.strip()}"
                yield from others
        else:
            yield _row(f"{indent}{key}", written[key], field.description)


def _row(key: str, value: Any, description: str | None) -> str:
    row = f"{key}: {_inline(value)}"
    return f"{row.ljust(_COMMENT_COLUMN - 1)} # {description}" if description else row


def _inline(value: Any) -> str:
    """A value in one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _first_sentence(model: BaseModel) -> str:
    return (type(model).__doc__ or "").splitlines()[0]
