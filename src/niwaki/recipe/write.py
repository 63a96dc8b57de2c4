"""A recipe -> YAML: the resolved one of a run, and the commented one that `niwaki new` starts people with."""

from __future__ import annotations

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
    blocks = [f"# {_first_sentence(recipe)}\n"]
    for key, field in type(recipe).model_fields.items():
        value = getattr(recipe, key)
        if isinstance(value, BaseModel):
            rows = [f"\n{key}:".ljust(_COMMENT_COLUMN + 1) + f"# {_first_sentence(value)}"]
            written = value.model_dump(mode="json")
            for name, part in type(value).model_fields.items():
                rows.append(_row(f"  {name}", written[name], part.description))
            blocks.append("\n".join(rows) + "\n")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            rows = [f"\n{key}:".ljust(_COMMENT_COLUMN + 1) + f"# {field.description}"]
            for item in value:
                written = item.model_dump(mode="json")
                for name, part in type(item).model_fields.items():
                    mark = "  - " if name == next(iter(written)) else "    "
                    rows.append(_row(f"{mark}{name}", written[name], part.description))
            blocks.append("\n".join(rows) + "\n")
        else:
            blocks.append(_row(key, recipe.model_dump(mode="json")[key], field.description) + "\n")
    return "".join(blocks)


def _row(key: str, value: Any, description: str | None) -> str:
    row = f"{key}: {_inline(value)}"
    return f"{row.ljust(_COMMENT_COLUMN - 1)} # {description}" if description else row


def _inline(value: Any) -> str:
    """A value in one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _first_sentence(model: BaseModel) -> str:
    return (type(model).__doc__ or "").splitlines()[0]
