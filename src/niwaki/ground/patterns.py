"""The lines of a table: patterns of tensor names, `model.layers.{layer}.mlp.experts.{expert}.w1.weight`, and
axis expressions that may hold only on a condition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from transformers import PreTrainedConfig

from niwaki.ground.axes import Sizes


@dataclass(frozen=True)
class Match:
    """The one line of a table that describes a tensor."""

    expr: str
    layer: int | None
    pattern: str
    expert: int | None = None


def match(pattern: str, expr: str, name: str) -> Match | None:
    """Match a tensor's name against one line of a table."""
    found = _regex(pattern).fullmatch(name)
    if found is None:
        return None
    numbers = {axis: int(number) for axis, number in found.groupdict().items()}
    return Match(expr, numbers.get("layer"), pattern, numbers.get("expert"))


def expand(pattern: str, sizes: Sizes) -> Iterator[str]:
    """List the names that a pattern stands for in a model of these sizes."""
    for layer in range(sizes["layer"] if "{layer}" in pattern else 1):
        for expert in range(sizes["expert"] if "{expert}" in pattern else 1):
            yield pattern.format(layer=layer, expert=expert)


def unconditional(line: str) -> str:
    """A line's axis expression, whatever its condition."""
    return line.partition(" if ")[0]


def present(line: str, config: PreTrainedConfig) -> str | None:
    """A line's axis expression where its condition, if it has one, holds for this config."""
    expr, _, condition = line.partition(" if ")
    return expr if not condition or getattr(config, condition, False) else None


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(pattern)))
