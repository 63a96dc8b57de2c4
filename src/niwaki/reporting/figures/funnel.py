"""What became of the questions of every source: one bar each, parted by the reason they were dropped for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from niwaki.reporting.figures.svg import figure, hover, tag, text

_ROW, _TOP = 34.0, 8.0


@dataclass(frozen=True)
class Bar:
    """A source: its name, and (class of the colour, words, number) of every part, in order."""

    name: str
    parts: tuple[tuple[str, str, int], ...]

    @property
    def total(self) -> int:
        """All its questions."""
        return sum(number for _, _, number in self.parts)


def funnel(bars: Sequence[Bar], width: float) -> Markup:
    """Every bar is as long as the others; its number of questions stands beside it."""
    left = min(150.0, width * 0.3)
    right = 92.0
    scale = width - left - right
    drawn: list[Markup] = []
    for row, bar in enumerate(bars):
        y = _TOP + row * _ROW
        drawn.append(text(left - 10, y + 15, bar.name, "label", "end"))
        x = left
        for class_, words, number in bar.parts:
            if number == 0:
                continue
            wide = scale * number / bar.total
            drawn.append(
                tag(
                    "rect",
                    hover(f"{bar.name}: {number:,} {words} ({number / bar.total:.1%})"),
                    x=x,
                    y=y,
                    width=max(wide - 1, 0.8),
                    height=20.0,
                    class_=f"part {class_}",
                )
            )
            x += wide
        kept = sum(number for class_, _, number in bar.parts if class_ == "kept")
        drawn.append(text(left + scale + 8, y + 15, f"{kept:,} of {bar.total:,}", "tick"))
    kept = sum(number for bar in bars for class_, _, number in bar.parts if class_ == "kept")
    label = f"Of {sum(bar.total for bar in bars):,} questions {kept:,} are kept."
    return figure(width, _TOP + len(bars) * _ROW, label, *drawn)


def shares(rows: Sequence[tuple[str, float, float]], width: float) -> Markup:
    """(set, share of all questions, share of the mixture): two bars a set, on one scale."""
    left = min(150.0, width * 0.3)
    scale = (width - left - 56.0) / max(max(before, after) for _, before, after in rows)
    drawn: list[Markup] = []
    for row, (name, before, after) in enumerate(rows):
        y = _TOP + row * _ROW
        drawn.append(text(left - 10, y + 15, name, "label", "end"))
        for offset, share, class_, words in (
            (0, before, "size", "of all"),
            (10, after, "kept", "of the mixture"),
        ):
            drawn.append(
                tag(
                    "rect",
                    hover(f"{name}: {share:.2%} {words}"),
                    x=left,
                    y=y + offset,
                    width=max(share * scale, 0.8),
                    height=9.0,
                    class_=f"part {class_}",
                )
            )
        drawn.append(text(left + max(before, after) * scale + 8, y + 15, f"{after:.1%}", "tick"))
    label = ", ".join(f"{name} {after:.1%}" for name, _, after in rows)
    return figure(width, _TOP + len(rows) * _ROW, f"Shares of the mixture: {label}.", *drawn)
