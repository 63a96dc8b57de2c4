"""Held-out losses of the models on one line, with their intervals: the result at a glance."""

from __future__ import annotations

from markupsafe import Markup

from niwaki.reporting.facts import Interval
from niwaki.reporting.figures.svg import Scale, figure, hover, spread, tag, text
from niwaki.reporting.words import loss, short

LABEL_WIDTH = 96.0


def number_line(losses: dict[str, Interval], titles: dict[str, str], width: float) -> Markup:
    """A mark per model, on a logarithmic line; lower is better and to the left."""
    means = [interval.mean for interval in losses.values()]
    level, height = 52.0, 82.0
    low, high = min(means), max(means)
    x = Scale(low / (high / low) ** 0.04, high * (high / low) ** 0.04, 30, width - 34, log=True)
    parts = [tag("line", x1=x.start - 26, x2=x.end + 26, y1=level, y2=level, class_="axis")]
    for tick in x.ticks(30):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=level, y2=level + 5, class_="axis"))
        parts.append(text(x(tick), level + 19, short(tick), "tick", "middle"))
    half = LABEL_WIDTH / 2 - 10
    places = spread([x(mean) for mean in means], LABEL_WIDTH - 12, half, width - half)
    for (name, interval), place in zip(losses.items(), places, strict=True):
        words = f"{titles[name]}: {loss(interval.mean)} ({loss(interval.low)} to {loss(interval.high)})"
        parts += [
            tag("path", d=f"M{place:.1f} 32L{x(interval.mean):.1f} {level - 7:.1f}", class_="leader"),
            tag(
                "line", x1=x(interval.low), x2=x(interval.high), y1=level, y2=level, class_=f"whisker {name}"
            ),
            tag("circle", hover(words), cx=x(interval.mean), cy=level, r=5.5, class_=f"dot {name}"),
            text(place, 12, titles[name], f"label {name}-text", "middle"),
            text(place, 27, f"{interval.mean:.2f}", "tick", "middle"),
        ]
    summary = ", ".join(f"{titles[name]} {loss(interval.mean)}" for name, interval in losses.items())
    return figure(width, height, f"Held-out loss, lower is better: {summary}.", *parts)
