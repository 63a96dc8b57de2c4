"""What the pages of all kinds of run share.

A page is one HTML file that loads nothing from anywhere and needs no JavaScript. Every figure is drawn twice,
for a laptop and for a phone; the style sheet shows one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from niwaki.reporting import words
from niwaki.reporting.table import TITLES

_WIDE, _NARROW = 760.0, 346.0


@dataclass(frozen=True)
class Figure:
    """One drawing at the two widths."""

    wide: Markup
    narrow: Markup


def both_widths(draw: Callable[[float], Markup]) -> Figure:
    """Draw a figure at the two widths, which `draw` is given."""
    return Figure(wide=draw(_WIDE), narrow=draw(_NARROW))


def render(template: str, facts: dict[str, Any]) -> str:
    """Fill a template; in HTML every value is escaped."""
    return environment().get_template(template).render(facts)


def environment() -> Environment:
    """The templates and the filters that they use; values in `*.html.j2` are escaped."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        quantity=words.quantity, shape=words.shape, title=TITLES.__getitem__, cell=markdown_text
    )
    return made


def markdown_text(value: str) -> str:
    """Foreign text as one line of Markdown, with nothing in it that Markdown or HTML acts on."""
    return re.sub(r"([\\`*_\[\]<>|&#])", r"\\\1", " ".join(str(value).split()))
