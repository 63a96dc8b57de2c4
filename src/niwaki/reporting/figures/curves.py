"""Loss against tokens or steps: lines with their names at their ends."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from niwaki.reporting.figures.svg import Scale, figure, hover, path, spread, tag, text
from niwaki.reporting.words import loss, quantity, short, significant

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A named line; `class_` is its colour on the page."""

    name: str
    class_: str
    points: Points
    marked: bool = False


@dataclass(frozen=True)
class Bridge:
    """A level stretch between two x positions with a remark: how far one line is ahead of another.

    A narrow chart has no room for the remark; say it beside the chart as well.
    """

    start: float
    end: float
    y: float
    words: str


def line_chart(
    lines: list[Line],
    *,
    width: float,
    label: str,
    x_title: str,
    y_title: str,
    log: bool = True,
    reference: tuple[str, float] | None = None,
    bridge: Bridge | None = None,
) -> Markup:
    """Draw lines of finite points; on logarithmic axes points at x <= 0 or y <= 0 are left out.

    `reference` is a named level drawn across (the teacher's loss).
    """
    shown = [
        Line(
            line.name,
            line.class_,
            [(x, y) for x, y in line.points if not log or (x > 0 and y > 0)],
            line.marked,
        )
        for line in lines
    ]
    shown = [line for line in shown if line.points]
    if not shown:
        return figure(width, 40, label, text(0, 24, "No losses were logged.", "tick"))
    height = 320.0 if width >= 560 else 260.0
    label_width = 112.0 if any(line.name for line in shown) else 8.0
    levels = [y for line in shown for _, y in line.points] + ([reference[1]] if reference else [])
    positions = [x for line in shown for x, _ in line.points]
    low, high = min(levels), max(levels)
    pad = (high / low) ** 0.06 if log else (high - low) * 0.06
    y = Scale(low / pad if log else low - pad, high * pad if log else high + pad, height - 34, 22, log=log)
    x = Scale(min(positions), max(positions), 40, width - label_width, log=log)
    parts = [*_grid(x, y, x_title, y_title)]
    if reference:
        parts.append(
            tag("line", x1=x.start, x2=x.end, y1=y(reference[1]), y2=y(reference[1]), class_="line teacher")
        )
    for line in shown:
        parts.append(path([(x(a), y(b)) for a, b in line.points], f"line {line.class_}"))
        parts += [_dot(x, y, line, a, b) for a, b in line.points if line.marked or len(line.points) == 1]
    if bridge:
        parts.append(_bridge(bridge, x, y, labelled=width >= 560))
    parts += _names(shown, reference, x, y)
    return figure(width, height, label, *parts)


def smooth(points: Points, num_points: int = 160) -> Points:
    """Means of the points in each of `num_points` equal stretches of a logarithmic axis."""
    points = [point for point in points if point[0] > 0]
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return points
    place = Scale(points[0][0], points[-1][0], 0, num_points, log=True)
    runs = [list(run) for _, run in groupby(points, key=lambda point: int(place(point[0])))]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def _grid(x: Scale, y: Scale, x_title: str, y_title: str) -> list[Markup]:
    parts = [text(0, 12, y_title, "tick")]
    for tick in y.ticks(24):
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(text(x.start - 8, y(tick) + 3.5, short(tick), "tick", "end"))
    for tick in x.ticks(46):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(text(x(tick), y.start + 17, short(tick), "tick", "middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(text(x.end, y.start + 32, x_title, "tick", "end"))
    return parts


def _dot(x: Scale, y: Scale, line: Line, a: float, b: float) -> Markup:
    words = f"{line.name}: {loss(b)} at {quantity(a)}"
    return tag("circle", hover(words), cx=x(a), cy=y(b), r=2.6, class_=f"dot {line.class_}")


def _bridge(bridge: Bridge, x: Scale, y: Scale, *, labelled: bool) -> Markup:
    start, end, level = x(bridge.start), x(bridge.end), y(bridge.y)
    parts = [
        hover(bridge.words),
        tag("line", x1=start, x2=end, y1=level, y2=level, class_="bridge"),
        tag("line", x1=start, x2=start, y1=level - 4, y2=level + 4, class_="bridge"),
    ]
    if labelled:
        parts.append(text(start + 5, level - 7, bridge.words, "label halo"))
    return tag("g", *parts)


def _names(lines: list[Line], reference: tuple[str, float] | None, x: Scale, y: Scale) -> list[Markup]:
    ends = [(line.name, line.class_, line.points[-1][1]) for line in lines if line.name]
    if reference:
        ends.append((reference[0], "teacher", reference[1]))
    places = spread([y(value) for _, _, value in ends], 28, y.end, y.start - 14)
    parts = []
    for (name, class_, value), place in zip(ends, places, strict=True):
        parts.append(text(x.end + 9, place + 3, name, f"label {class_}-text"))
        parts.append(text(x.end + 9, place + 16, significant(value), "tick"))
    return parts
