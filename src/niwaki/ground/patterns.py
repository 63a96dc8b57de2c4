"""Tensor names as patterns: `model.layers.{layer}.mlp.experts.{expert}.w1.weight`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

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


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(pattern)))
