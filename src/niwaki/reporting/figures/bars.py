"""One bar for each layer, with its value beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from niwaki.reporting.figures.svg import Scale, figure, hover, tag, text

_ROW, _LABEL, _VALUE = 21.0, 62.0, 64.0


def layer_bars(
    values: Sequence[tuple[str, float]],
    *,
    width: float,
    label: str,
    shown: Callable[[float], str],
    class_: str = "kept",
) -> Markup:
    """Horizontal bars from zero; a value below zero gets none, only its number.

    Args:
        values: name -> value, in the order from top to bottom.
        shown: a value in words.
        class_: colour of the bars on the page.
    """
    largest = max([value for _, value in values] + [0.0])
    scale = Scale(0.0, largest or 1.0, _LABEL, width - _VALUE)
    parts = []
    for number, (name, value) in enumerate(values):
        top = number * _ROW
        end = scale(max(value, 0.0))
        parts.append(text(0, top + 14, name, "label"))
        parts.append(
            tag(
                "rect",
                hover(f"{name}: {shown(value)}"),
                x=_LABEL,
                y=top + 3,
                width=max(end - _LABEL, 1.0),
                height=_ROW - 7,
                class_=class_,
            )
        )
        parts.append(text(end + 7, top + 14, shown(value), "tick"))
    return figure(width, _ROW * len(values), label, *parts)
