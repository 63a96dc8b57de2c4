"""Loss against what a shape costs: one small chart per cost, with the front that nothing beats in both."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from niwaki.reporting.facts import Candidate, Front
from niwaki.reporting.figures.svg import Scale, figure, hover, path, tag, text
from niwaki.reporting.words import loss, megabytes, milliseconds, quantity, shape, shape_in_short, short

COSTS: dict[str, tuple[str, Callable[[Candidate], float | None], Callable[[float], str]]] = {
    "num_parameters": ("parameters", lambda candidate: candidate.num_parameters, quantity),
    "kv_cache_bytes": ("key-value cache", lambda candidate: candidate.kv_cache_bytes, megabytes),
    "latency_s": ("latency", lambda candidate: candidate.latency_s, milliseconds),
}
TALL = 236.0
HEAD, FOOT, SIDE = 30.0, 40.0, 40.0


def pareto(candidates: list[Candidate], fronts: dict[str, Front], width: float) -> Markup:
    """Charts beside each other, or below each other where there is no room."""
    names = [name for name in COSTS if name in fronts]
    across = len(names) if width >= 560 else 1
    each = (width - 20.0 * (across - 1)) / across
    parts = []
    for place, name in enumerate(names):
        left, top = (place % across) * (each + 20.0), (place // across) * (TALL + 14.0)
        chart = _chart(candidates, fronts[name], name, each)
        parts.append(tag("g", chart, transform=f"translate({left:.1f} {top:.1f})"))
    rows = -(-len(names) // across)
    label = f"Held-out loss of {len(candidates)} candidates against {', '.join(COSTS[n][0] for n in names)}."
    return figure(width, rows * TALL + (rows - 1) * 14.0, label, *parts)


def _chart(candidates: list[Candidate], front: Front, name: str, width: float) -> Markup:
    title, cost, words = COSTS[name]
    points = [
        (value, last, candidate)
        for candidate in candidates
        if (value := cost(candidate)) is not None and (last := _loss(candidate)) is not None
    ]
    on_front = [(cost(candidates[n]) or 0.0, _loss(candidates[n]) or 0.0) for n in front.front]
    x = _padded([value for value, _, _ in points], SIDE, width - 10)
    y = _padded([last for _, last, _ in points], TALL - FOOT, HEAD)
    parts = [*_grid(x, y, title, words), _front(on_front, x, y)]
    for value, last, candidate in sorted(points, key=lambda point: point[2].chosen):
        class_ = "chosen" if candidate.chosen else "plain"
        kind = "ring" if candidate.stopped else "dot"
        said = f"{shape(candidate.sizes)}: loss {loss(last)}, {title} {words(value)}"
        said += " (stopped early)" if candidate.stopped else ""
        parts.append(tag("circle", hover(said), cx=x(value), cy=y(last), r=4.5, class_=f"{kind} {class_}"))
    if front.knee is not None:
        parts += _knee(candidates[front.knee], on_front[front.front.index(front.knee)], x, y)
    return tag("g", *parts)


def _loss(candidate: Candidate) -> float | None:
    return candidate.loss_before if candidate.loss_after is None else candidate.loss_after


def _padded(values: list[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.05
    return Scale(low - pad, high + pad, start, end)


def _front(points: list[tuple[float, float]], x: Scale, y: Scale) -> Markup:
    """Steps: up to the next cost, nothing is better than the point before."""
    corners = [(x(points[0][0]), y.end)]
    for number, (value, last) in enumerate(points):
        corners.append((x(value), y(last)))
        end = x(points[number + 1][0]) if number + 1 < len(points) else x.end
        corners.append((end, y(last)))
    return path(corners, "line front")


def _grid(x: Scale, y: Scale, title: str, words: Callable[[float], str]) -> list[Markup]:
    parts = [text(0, 12, "held-out loss", "tick")]
    for tick in y.ticks(26):
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(text(x.start - 6, y(tick) + 3.5, short(tick), "tick", "end"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    for tick in x.ticks(62):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(text(x(tick), y.start + 17, words(tick), "tick", "middle"))
    parts.append(text(x.end, y.start + 33, title, "tick", "end"))
    return parts


def _knee(candidate: Candidate, point: tuple[float, float], x: Scale, y: Scale) -> list[Markup]:
    place = x(point[0]), y(point[1])
    toward_end = place[0] > (x.start + x.end) / 2
    said = f"knee: {shape_in_short(candidate.sizes)}"
    return [
        tag("circle", hover(said), cx=place[0], cy=place[1], r=8.5, class_="knee"),
        text(
            place[0] + (-12 if toward_end else 12),
            place[1] - 9,
            said,
            "tick halo",
            "end" if toward_end else "start",
        ),
    ]
