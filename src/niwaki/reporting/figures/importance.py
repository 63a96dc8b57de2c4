"""What mattered: importance per layer, head and neuron, and per hidden channel, with the cut marked.

Shades are on a logarithmic scale within one axis, between its 2nd and 98th percentile. Units are sorted:
the kept first, the most important to the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from markupsafe import Markup

from niwaki.reporting.facts import Importance
from niwaki.reporting.figures.svg import Scale, figure, hover, tag, text
from niwaki.reporting.words import significant

NUM_SHADES = 14
NUM_BINS = 96
INDEX_WIDTH = 22.0
TITLE_HEIGHT = 30.0


@dataclass(frozen=True)
class Unit:
    """One thing that can be cut, or the mean of several that are drawn as one."""

    value: float
    kept: bool


def importance_by_layer(importance: Importance, keep: dict[str, Any] | None, width: float) -> Markup:
    """Layers as rows (the first at the foot), and their three axes as panels: beside each other, or stacked.

    `keep` is the record of the trim (see docs/architecture.md), `None` where nothing was cut.
    """
    num_layers = max(len(importance.layer), len(importance.ffn), len(importance.group))
    row = min(max(300.0 / max(num_layers, 1), 6.0), 22.0)
    panels = [
        (name, share, rows)
        for name, share, rows in (
            (
                "Layers: block influence" if importance.measure == "activation" else "Layers",
                0.22,
                _layer_rows(importance, keep),
            ),
            ("Attention heads", 0.26, _head_rows(importance, keep)),
            ("Feed-forward neurons, sorted", 0.52, _ffn_rows(importance, keep)),
        )
        if rows
    ]
    beside = width >= 560
    gap = 26.0
    room = width - INDEX_WIDTH - (gap * (len(panels) - 1) if beside else 0.0)
    shares = sum(share for _, share, _ in panels) or 1.0
    panel_height = TITLE_HEIGHT + num_layers * row + 8
    drawn, x, y = [], INDEX_WIDTH, 0.0
    for number, (name, share, rows) in enumerate(panels):
        wide = room * share / shares if beside else room
        parts = [text(x, y + 14, name, "heading")]
        if number == 0 or not beside:
            parts += _indices(num_layers, x, y + TITLE_HEIGHT, row)
        drawing = _bars if name.startswith("Layers") else _strips
        parts.append(drawing(rows, x, y + TITLE_HEIGHT, wide, row))
        drawn.append(tag("g", *parts))
        x, y = (x + wide + gap, y) if beside else (x, y + panel_height + 10)
    label = (
        "Importance of layers, attention heads and feed-forward neurons, with what was kept and what was cut."
    )
    return figure(width, panel_height if beside else y, label, *drawn)


def importance_of_hidden(importance: Importance, keep: dict[str, Any] | None, width: float) -> Markup:
    """Hidden channels sorted by importance, as a skyline on a logarithmic scale."""
    kept = None if keep is None or "hidden" not in keep else set(keep["hidden"])
    units = _binned(_sorted(importance.hidden, kept), NUM_BINS * 2 if width >= 560 else NUM_BINS)
    height, foot = 132.0, 104.0
    values = [unit.value for unit in units if unit.value > 0] or [1.0]
    scale = Scale(min(values) * 0.7, max(values), 0.0, foot - 14, log=True)
    step = width / max(len(units), 1)
    bars = []
    for number, unit in enumerate(units):
        tall = max(scale(max(unit.value, scale.low)), 1.0)
        words = f"{significant(unit.value)}, {'kept' if unit.kept else 'cut'}"
        bars.append(
            tag(
                "rect",
                hover(words),
                x=number * step,
                y=foot - tall,
                width=max(step - (0.6 if step > 2.4 else 0.0), 0.5),
                height=tall,
                class_="kept" if unit.kept else "cut",
            )
        )
    num_kept = len(importance.hidden) if kept is None else len(kept)
    border = width * num_kept / max(len(importance.hidden), 1)
    words = f"{num_kept:,} channels" if kept is None else f"{num_kept:,} kept"
    marks = [text(0, foot + 18, words, "label kept-text")]
    if num_kept < len(importance.hidden):
        cut = f"{len(importance.hidden) - num_kept:,} cut"
        marks += [
            tag("line", x1=border, y1=0.0, x2=border, y2=foot + 8, class_="border"),
            text(width, foot + 18, cut, "label cut-text", "end"),
        ]
    label = f"Importance of the {len(importance.hidden):,} hidden channels, sorted; {num_kept:,} are kept."
    return figure(width, height, label, *bars, *marks)


def _layer_rows(importance: Importance, keep: dict[str, Any] | None) -> list[list[Unit]]:
    return [[Unit(value, _layer_kept(keep, layer))] for layer, value in enumerate(importance.layer)]


def _head_rows(importance: Importance, keep: dict[str, Any] | None) -> list[list[Unit]]:
    """Heads in their own order, key-value group after key-value group."""
    rows = []
    for layer, groups in enumerate(importance.group):
        row = []
        for kv, values in enumerate(groups):
            kv_kept = keep is None or "kv" not in keep or kv in keep["kv"][layer]
            for head, value in enumerate(values):
                kept = keep is None or "group" not in keep or head in keep["group"][layer][kv]
                row.append(Unit(value, kept and kv_kept and _layer_kept(keep, layer)))
        rows.append(row)
    return rows


def _ffn_rows(importance: Importance, keep: dict[str, Any] | None) -> list[list[Unit]]:
    rows = []
    for layer, values in enumerate(importance.ffn):
        kept = None if keep is None or "ffn" not in keep else set(keep["ffn"][layer])
        if not _layer_kept(keep, layer):
            kept = set()
        rows.append(_binned(_sorted(values, kept), NUM_BINS))
    return rows


def _layer_kept(keep: dict[str, Any] | None, layer: int) -> bool:
    return keep is None or "layer" not in keep or layer in keep["layer"]


def _sorted(values: list[float], kept: set[int] | None) -> list[Unit]:
    units = [Unit(value, kept is None or index in kept) for index, value in enumerate(values)]
    return sorted(units, key=lambda unit: (not unit.kept, -unit.value))


def _binned(units: list[Unit], num_bins: int) -> list[Unit]:
    """Means of neighbours, about `num_bins` of them; a bin never holds both kept and cut units."""
    size = max(len(units) / num_bins, 1.0)
    bins = []
    for kept, same in groupby(units, key=lambda unit: unit.kept):
        values = [unit.value for unit in same]
        count = max(round(len(values) / size), 1)
        edges = [round(index * len(values) / count) for index in range(count + 1)]
        bins += [Unit(sum(values[a:b]) / (b - a), kept) for a, b in pairwise(edges)]
    return bins


def _shades(rows: list[list[Unit]]) -> Scale:
    values = sorted(
        unit.value for row in rows for unit in row if unit.value > 0 and math.isfinite(unit.value)
    )
    if not values:
        return Scale(1.0, 2.0, 0.0, 1.0, log=True)
    return Scale(
        values[int(0.02 * (len(values) - 1))], values[int(0.98 * (len(values) - 1))], 0.0, 1.0, log=True
    )


def _shade(scale: Scale, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        return 0.1
    share = min(max(scale(value), 0.0), 1.0)
    return round(0.12 + 0.88 * round(share * NUM_SHADES) / NUM_SHADES, 3)


def _indices(num_layers: int, x: float, y: float, row: float) -> list[Markup]:
    step = 1 if row >= 11 else 4
    return [
        text(x - 8, y + (num_layers - layer - 0.5) * row + 3.5, str(layer), "tick", "end")
        for layer in range(0, num_layers, step)
    ]


def _bars(rows: list[list[Unit]], x: float, y: float, width: float, row: float) -> Markup:
    top = (
        max((unit.value for units in rows for unit in units if math.isfinite(unit.value)), default=1.0) or 1.0
    )
    bars = []
    for layer, units in enumerate(rows):
        unit = units[0]
        share = max(unit.value / top, 0.0) if math.isfinite(unit.value) else 0.0
        bars.append(
            tag(
                "rect",
                hover(f"Layer {layer}: {significant(unit.value)}, {'kept' if unit.kept else 'dropped'}"),
                x=x,
                y=y + (len(rows) - 1 - layer) * row + row * 0.14,
                width=max(width * share, 1.5),
                height=row * 0.72,
                class_="kept" if unit.kept else "cut dashed",
            )
        )
    return tag("g", *bars)


def _strips(rows: list[list[Unit]], x: float, y: float, width: float, row: float) -> Markup:
    """One strip per layer; neighbours of one shade become one rectangle."""
    scale = _shades(rows)
    cells = []
    for layer, units in enumerate(rows):
        step = width / max(len(units), 1)
        spaced = len(units) < NUM_BINS / 2
        position = 0
        # spaced cells are single heads and stay single; runs are keyed by shade otherwise
        runs = groupby(
            enumerate(units),
            key=lambda item: (item[0] if spaced else 0, item[1].kept, _shade(scale, item[1].value)),
        )
        for (_, kept, shade), run in runs:
            members = [unit for _, unit in run]
            mean = sum(unit.value for unit in members) / len(members)
            cells.append(
                tag(
                    "rect",
                    hover(f"Layer {layer}: {significant(mean)}, {'kept' if kept else 'cut'}"),
                    x=x + position * step,
                    y=y + (len(rows) - 1 - layer) * row + row * 0.07,
                    width=len(members) * step - (1.5 if spaced else 0.0),
                    height=row * 0.86,
                    class_="kept" if kept else "cut",
                    fill_opacity=shade,
                )
            )
            position += len(members)
        num_kept = sum(unit.kept for unit in units)
        if not spaced and 0 < num_kept < len(units):
            top, border = y + (len(rows) - 1 - layer) * row, x + num_kept * step
            cells.append(tag("line", x1=border, x2=border, y1=top, y2=top + row, class_="border solid"))
        if spaced and step >= 8:
            cells += _crosses(units, x, y + (len(rows) - 1 - layer) * row, step, row)
    return tag("g", *cells)


def _crosses(units: list[Unit], x: float, y: float, step: float, row: float) -> list[Markup]:
    """A stroke through every cut head, so that the cut does not rest on colour alone."""
    return [
        tag(
            "line",
            x1=x + index * step + 2,
            y1=y + row * 0.8,
            x2=x + (index + 1) * step - 3.5,
            y2=y + row * 0.2,
            class_="strike",
        )
        for index, unit in enumerate(units)
        if not unit.kept
    ]
