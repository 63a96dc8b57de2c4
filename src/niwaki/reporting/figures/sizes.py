"""Loss against parameters: a family of models as a line, each with its name and its interval."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from niwaki.reporting.facts import Interval
from niwaki.reporting.figures.svg import Scale, figure, hover, path, tag, text
from niwaki.reporting.words import loss, quantity, short


@dataclass(frozen=True)
class SizedModel:
    """A model on the picture; `random_loss` is that of its shape taught from random weights, if measured."""

    name: str
    num_parameters: int
    held_out_loss: Interval
    random_loss: Interval | None = None


def loss_by_size(models: list[SizedModel], width: float) -> Markup:
    """Draw models, the first of which is the teacher; both axes are logarithmic."""
    models = sorted(models, key=lambda model: model.num_parameters)
    randoms = [(m, m.random_loss) for m in models if m.random_loss is not None]
    intervals = [m.held_out_loss for m in models] + [interval for _, interval in randoms]
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    counts = [m.num_parameters for m in models]
    height = 300.0 if width >= 560 else 250.0
    pad = max(high / low, 1.02) ** 0.08
    x = Scale(min(counts) / 1.15, max(counts) * 1.15, 46, width - 20, log=True)
    y = Scale(low / pad, high * pad, height - 34, 26, log=True)
    parts = [text(0, 12, "held-out loss, nats per token", "tick")]
    for tick in y.ticks(24):
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(text(x.start - 8, y(tick) + 3.5, short(tick), "tick", "end"))
    for tick in x.ticks(46):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(text(x(tick), y.start + 17, short(tick), "tick", "middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(text(x.end, y.start + 32, "parameters", "tick", "end"))
    if len(randoms) > 1:
        points = [(x(model.num_parameters), y(interval.mean)) for model, interval in randoms]
        parts.append(path(points, "line random"))
    parts.append(path([(x(m.num_parameters), y(m.held_out_loss.mean)) for m in models], "line distilled"))
    for model, interval in randoms:
        parts += _mark(x(model.num_parameters), y, interval, f"{model.name}, from random weights", "random")
    for model in models:
        kind = "teacher" if model.num_parameters == max(counts) else "distilled"
        parts += _mark(x(model.num_parameters), y, model.held_out_loss, model.name, kind)
        anchor = "end" if model.num_parameters == max(counts) else "start"
        place = x(model.num_parameters) + (-9 if anchor == "end" else 9)
        parts.append(
            text(place, y(model.held_out_loss.mean) - 9, model.name, f"label halo {kind}-text", anchor)
        )
    summary = ", ".join(
        f"{m.name} {loss(m.held_out_loss.mean)} at {quantity(m.num_parameters)}" for m in models
    )
    return figure(width, height, f"Held-out loss against parameters: {summary}.", *parts)


def _mark(x: float, y: Scale, interval: Interval, name: str, kind: str) -> list[Markup]:
    words = f"{name}: {loss(interval.mean)} ({loss(interval.low)} to {loss(interval.high)})"
    return [
        tag("line", x1=x, x2=x, y1=y(interval.low), y2=y(interval.high), class_="axis"),
        tag("circle", hover(words), cx=x, cy=y(interval.mean), r=4.5, class_=f"dot {kind}"),
    ]
