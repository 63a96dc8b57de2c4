"""What of a run others may see: names without this machine's folders, text that cannot leave its block."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_LOCAL_PATH = re.compile(r"~?/|\.{1,2}/")


def public_name(path: str) -> str:
    """A model's name for others: a name on the Hub as it is, of a local folder only the last part."""
    return path if is_hub_name(path) else Path(path).resolve().name


def is_hub_name(path: str) -> bool:
    """Whether a model is named as on the Hub, user/name, and is no folder here."""
    return _HUB_NAME.fullmatch(path) is not None and not Path(path).exists()


def without_local_paths(recipe: str) -> str:
    """A recipe with folders of this machine by their last part: /data/me/llama becomes .../llama."""
    try:
        nodes = list(_scalars(yaml.compose(recipe, Loader=yaml.SafeLoader)))
    except yaml.YAMLError:
        return recipe
    for node in reversed(nodes):
        if _LOCAL_PATH.match(node.value):
            shown = json.dumps(f".../{Path(node.value).name}", ensure_ascii=False)
            recipe = recipe[: node.start_mark.index] + shown + recipe[node.end_mark.index :]
    return recipe


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The values in a YAML tree, in the order of the text."""
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.ScalarNode):
        yield node


def fence(texts: list[str]) -> str:
    """A run of backticks longer than any in the texts, so that none of them can close its block."""
    longest = max((len(run) for text in texts for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
