"""Candidates in a row each: loss right after trimming (ring) and after the short distillation (dot)."""

from __future__ import annotations

from markupsafe import Markup

from niwaki.reporting.facts import Candidate
from niwaki.reporting.figures.svg import Scale, figure, hover, tag, text
from niwaki.reporting.words import loss, quantity, shape, short

MAX_ROWS = 20
HEAD = 26.0
FOOT = 34.0
COLUMNS = {"layers": 68.0, "hidden": 122.0, "ffn": 176.0, "heads": 222.0, "parameters": 308.0}


def ranking(candidates: list[Candidate], width: float) -> Markup:
    """A row per candidate, the best above; at most `MAX_ROWS`, the chosen one always among them."""
    rows = ordered(candidates)[:MAX_ROWS]
    if not any(row.chosen for row in rows):
        rows = rows[: MAX_ROWS - 1] + [candidate for candidate in candidates if candidate.chosen][:1]
    beside = width >= 560
    tall = 26.0 if beside else 42.0
    height = HEAD + tall * len(rows) + FOOT
    losses = [
        value
        for row in rows
        for value in (row.loss_before, row.loss_after)
        if value is not None and value > 0
    ]
    label = f"{len(rows)} candidate shapes by loss, the best first."
    if not losses:
        losses = [1.0]
    start, end = (348.0, width - 62.0) if beside else (8.0, width - 56.0)
    x = Scale(min(losses) / 1.02, max(losses) * 1.02, start, end, log=True)
    foot = height - FOOT
    parts = [_axis(x, foot), _key(rows, start)]
    if beside:
        parts += [text(right, 12, name, "tick", "end") for name, right in COLUMNS.items()]
    for number, candidate in enumerate(rows):
        top = HEAD + number * tall
        parts.append(_row(candidate, number + 1, x, top, tall, width, beside=beside))
    return figure(width, height, label, *parts)


def ordered(candidates: list[Candidate]) -> list[Candidate]:
    """Best first: by the loss after the short distillation, then after trimming; unmeasured last.

    A loss that was measured when a trial stopped early is behind all that were measured at its end.
    """

    def key(candidate: Candidate) -> tuple[bool, float, float]:
        last = float("inf")
        after = last if candidate.loss_after is None else candidate.loss_after
        return (
            candidate.stopped is not None,
            after,
            last if candidate.loss_before is None else candidate.loss_before,
        )

    return sorted(candidates, key=key)


def _axis(x: Scale, foot: float) -> Markup:
    parts = [tag("line", x1=x.start, x2=x.end, y1=foot, y2=foot, class_="axis")]
    for tick in x.ticks(40):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=HEAD - 6, y2=foot, class_="grid"))
        parts.append(text(x(tick), foot + 16, short(tick), "tick", "middle"))
    parts.append(text(x.end, foot + 31, "held-out loss, nats per token", "tick", "end"))
    return tag("g", *parts)


def _key(rows: list[Candidate], x: float) -> Markup:
    parts = [
        tag("circle", cx=x + 4, cy=8.0, r=4.0, class_="ring"),
        text(x + 14, 12, "after trimming", "tick"),
    ]
    if any(row.loss_after is not None for row in rows):
        parts.append(tag("circle", cx=x + 110, cy=8.0, r=4.5, class_="dot plain"))
        parts.append(text(x + 120, 12, "after a short distillation", "tick"))
    return tag("g", *parts)


def _row(
    candidate: Candidate, place: int, x: Scale, top: float, tall: float, width: float, *, beside: bool
) -> Markup:
    middle = top + (tall / 2 if beside else tall - 13)
    class_ = "chosen" if candidate.chosen else "plain"
    label_class = "label strong" if candidate.chosen else "label quiet"
    parts = [hover(_in_words(candidate))]
    if candidate.chosen:
        parts.append(tag("rect", x=0.0, y=top + 1, width=width, height=tall - 2, rx=4.0, class_="row-chosen"))
    if beside:
        cells = zip((str(place), *_cells(candidate)), (24.0, *COLUMNS.values()), strict=True)
        parts += [text(right, middle + 4, words, label_class, "end") for words, right in cells]
    else:
        parts.append(text(8, top + 14, f"{place}. {shape(candidate.sizes)}", label_class))
    before, after = candidate.loss_before, candidate.loss_after
    if before is not None and after is not None:
        parts.append(tag("line", x1=x(before), x2=x(after), y1=middle, y2=middle, class_=f"stem {class_}"))
    if before is not None:
        parts.append(tag("circle", cx=x(before), cy=middle, r=4.0, class_=f"ring {class_}"))
    if after is not None:
        parts.append(tag("circle", cx=x(after), cy=middle, r=4.5, class_=f"dot {class_}"))
    final = after if after is not None else before
    parts.append(text(width - 6, middle + 4, "–" if final is None else loss(final), label_class, "end"))
    return tag("g", *parts)


def _cells(candidate: Candidate) -> tuple[str, ...]:
    sizes = candidate.sizes
    ffn = (
        f"{sizes['expert']}×{sizes['effn']:,}"
        if "effn" in sizes and "expert" in sizes
        else f"{sizes.get('ffn', 0):,}"
    )
    heads = sizes.get("kv", 0) * sizes.get("group", 1)
    return (
        str(sizes.get("layer", "")),
        f"{sizes.get('hidden', 0):,}",
        ffn,
        str(heads),
        quantity(candidate.num_parameters),
    )


def _in_words(candidate: Candidate) -> str:
    words = f"{shape(candidate.sizes)}: {quantity(candidate.num_parameters)} parameters"
    if candidate.loss_before is not None:
        words += f", loss {loss(candidate.loss_before)} after trimming"
    if candidate.loss_after is not None:
        words += f", {loss(candidate.loss_after)} after a short distillation"
    return words + (" (chosen)" if candidate.chosen else "")
