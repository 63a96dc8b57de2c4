"""SVG elements as escaped text, and the scales that place numbers on them.

Colours are CSS classes of `templates/report.css.j2`, so that a figure follows the light or dark theme of its
page. Lengths are in CSS pixels at the figure's natural width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

ROUND_STEPS = ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """One element; `_` in attribute names becomes `-`, and `class_` is `class`. All is escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{Markup('').join(children)}</{name}>")


def figure(width: float, height: float, label: str, *children: str) -> Markup:
    """A whole picture; `label` says in words what it shows, for those who do not see it."""
    return tag(
        "svg",
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_text(width)} {_text(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def text(x: float, y: float, words: str, class_: str = "label", anchor: str = "start") -> Markup:
    """A line of text whose baseline begins, centres or ends at x."""
    return tag("text", words, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def path(points: list[tuple[float, float]], class_: str) -> Markup:
    """A line through points."""
    return tag("path", d="M" + "L".join(f"{_text(x)} {_text(y)}" for x, y in points), class_=class_)


def hover(words: str) -> Markup:
    """The tooltip of the element it is a child of."""
    return tag("title", words)


def _text(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` on pixels from `start` to `end`, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, gap: float) -> list[float]:
        """As many round numbers inside the scale as stand at least `gap` pixels apart."""
        linear = self._roomy([self._multiples(step) for step in self._linear_steps()], gap)
        if not self.log:
            return linear
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        choices = [[step * 10.0**decade for decade in decades for step in steps] for steps in ROUND_STEPS]
        logarithmic = self._roomy(choices, gap)
        return logarithmic if len(logarithmic) >= min(3, len(linear)) else linear

    def _roomy(self, choices: list[list[float]], gap: float) -> list[float]:
        """The first choice whose numbers, inside the scale, stand far enough apart."""
        for choice in choices:
            inside = [value for value in choice if self.low <= value <= self.high]
            places = [self(value) for value in inside]
            if all(abs(b - a) >= gap for a, b in pairwise(places)):
                return inside
        return []

    def _linear_steps(self) -> list[float]:
        span = self.high - self.low
        if span <= 0:
            return []
        decade = math.floor(math.log10(span))
        return [factor * 10.0**power for power in (decade - 2, decade - 1, decade) for factor in (1, 2, 5)]

    def _multiples(self, step: float) -> list[float]:
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def spread(positions: list[float], distance: float, low: float, high: float) -> list[float]:
    """Move labels apart to at least `distance`, in their order, inside low..high where they fit."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = list(positions)
    floor = low
    for index in order:
        placed[index] = max(placed[index], floor)
        floor = placed[index] + distance
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - distance
    return placed
