"""Rank by step: one line per candidate, the best above, from the start of the trials to their end."""

from __future__ import annotations

from markupsafe import Markup

from niwaki.reporting.facts import Candidate, Settled
from niwaki.reporting.figures.svg import Scale, figure, hover, path, tag, text
from niwaki.reporting.words import shape, shape_in_short, short

HEAD = 24.0
FOOT = 36.0
TALL = 24.0
MAX_LINES = 20


def bump(settled: Settled, candidates: list[Candidate], width: float) -> Markup:
    """The first `MAX_LINES` candidates, in their final order; those that stopped early end early."""
    candidates = candidates[:MAX_LINES]
    last_rank = max(rank for ranks in settled.ranks for rank in ranks[:MAX_LINES] if rank is not None)
    label_width = 168.0 if width >= 560 else 112.0
    height = HEAD + TALL * last_rank + FOOT
    x = Scale(settled.steps[0], settled.steps[-1], 22, width - label_width)
    y = Scale(1, max(last_rank, 2), HEAD + TALL / 2, HEAD + TALL * (max(last_rank, 2) - 0.5))
    parts = [_axis(settled, x, height - FOOT)]
    lines = []
    for number, candidate in enumerate(candidates):
        ranks = [at_step[number] for at_step in settled.ranks]
        line = _line(settled.steps, ranks, candidate, x, y)
        lines.append((candidate.chosen, line))
    parts += [line for chosen, line in sorted(lines, key=lambda each: each[0])]
    for rank in range(1, last_rank + 1):
        parts.append(text(10, y(rank) + 4, str(rank), "tick", "middle"))
    label = (
        f"Rank of {len(candidates)} candidates by held-out loss at each step of their trials, the best above."
    )
    return figure(width, height, label, *parts)


def _axis(settled: Settled, x: Scale, foot: float) -> Markup:
    parts = [tag("line", x1=x.start, x2=x.end, y1=foot, y2=foot, class_="axis")]
    for tick in x.ticks(40):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=foot, y2=foot + 4, class_="axis"))
        parts.append(text(x(tick), foot + 17, short(tick), "tick", "middle"))
    if settled.winner_step is not None:
        place = x(settled.winner_step)
        parts.append(tag("line", x1=place, x2=place, y1=HEAD - 6, y2=foot, class_="border"))
        parts.append(text(place, 12, "first from here on", "tick", "start" if place < x.end / 2 else "end"))
    parts.append(text(x.end, foot + 32, "steps", "tick", "end"))
    return tag("g", *parts)


def _line(steps: list[int], ranks: list[int | None], candidate: Candidate, x: Scale, y: Scale) -> Markup:
    points = [(x(step), y(rank)) for step, rank in zip(steps, ranks, strict=True) if rank is not None]
    if not points:
        return Markup("")
    class_ = "distilled" if candidate.chosen else "plain"
    name_class = "label strong" if candidate.chosen else "label quiet"
    words = shape(candidate.sizes) + (f"; stopped: {candidate.stopped}" if candidate.stopped else "")
    end_x, end_y = points[-1]
    end = tag("circle", cx=end_x, cy=end_y, r=3.2, class_="ring" if candidate.stopped else f"dot {class_}")
    dots = [tag("circle", cx=a, cy=b, r=2.2, class_=f"dot {class_}") for a, b in points[:-1]]
    name = shape_in_short(candidate.sizes)
    parts = [hover(words), path(points, f"line {class_}"), *dots, end]
    if not candidate.stopped:
        parts.append(text(end_x + 9, end_y + 4, name, name_class))
    return tag("g", *parts)
