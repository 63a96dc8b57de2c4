"""The shape of a model as a garden tree, every width to scale.

The trunk is the residual stream (hidden channels). Each layer is a pair of branches: attention to the left
(query heads side by side, key-value groups set apart), feed-forward to the right (its neurons). Input at
the foot.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from niwaki.reporting.figures.svg import figure, hover, tag, text

GAP = 40.0
HEAD = 34.0
FOOT = 40.0
INDEX_WIDTH = 22.0


@dataclass(frozen=True)
class Widths:
    """Widths of the three parts of a layer, in channels."""

    attention: int
    hidden: int
    ffn: int

    @property
    def total(self) -> int:
        """Channels from the tip of the left branch to the tip of the right one."""
        return self.attention + self.hidden + self.ffn


def widths(sizes: dict[str, int]) -> Widths:
    """The parts of a shape; experts count side by side."""
    ffn = sizes.get("ffn", 0) or sizes.get("effn", 0) * sizes.get("expert", 1)
    attention = sizes.get("kv", 0) * sizes.get("group", 1) * sizes.get("dim", 0)
    return Widths(attention=attention, hidden=sizes.get("hidden", 0), ffn=ffn)


def trees(
    teacher: dict[str, int],
    student: dict[str, int] | None,
    kept_layers: list[int] | None,
    captions: tuple[str, str],
    width: float,
) -> Markup:
    """Draw teacher and student at one scale; what was cut stays as a ghost behind the student.

    `kept_layers` are the teacher's indices of the student's layers; where `None`, the first stand for them.
    The trees stand side by side where `width` allows, else one above the other.
    """
    beside = width >= 560
    room = (width - GAP) / 2 if beside and student else width
    room = min(room, 440.0)
    scale = (room - INDEX_WIDTH) / max(widths(teacher).total, 1)
    num_layers = teacher.get("layer", 1)
    row = min(max(380.0 / num_layers, 5.0), 30.0)
    height = HEAD + num_layers * row + FOOT
    drawn = [_tree(teacher, teacher, list(range(num_layers)), captions[0], scale, row, "teacher")]
    if student:
        kept = kept_layers if kept_layers is not None else list(range(student.get("layer", num_layers)))
        shifted = _tree(teacher, student, kept, captions[1], scale, row, "student")
        shift = (room + GAP, 0.0) if beside else (0.0, height + 12)
        drawn.append(tag("g", shifted, transform=f"translate({shift[0]:.1f} {shift[1]:.1f})"))
    label = f"Shape of the teacher: {_in_words(teacher)}."
    if student:
        label += f" Shape of the student: {_in_words(student)}."
    total_height = height if beside or not student else 2 * height + 12
    return figure(width, total_height, label, *drawn)


def _tree(
    whole: dict[str, int],
    sizes: dict[str, int],
    kept: list[int],
    caption: str,
    scale: float,
    row: float,
    class_: str,
) -> Markup:
    full, own = widths(whole), widths(sizes)
    num_layers = whole.get("layer", 1)
    foot = HEAD + num_layers * row
    centre = INDEX_WIDTH + (full.attention + full.hidden / 2) * scale
    pruned = sizes != whole or len(kept) < num_layers
    parts = [text(INDEX_WIDTH, 14, caption, "heading")]
    if pruned:
        parts.append(_trunk(full.hidden * scale, centre, foot, "ghost"))
    for layer in range(num_layers):
        top = foot - (layer + 1) * row
        if pruned:
            parts.append(_ghost(full, centre, top, scale, row, dropped=layer not in kept))
        if layer in kept:
            parts.append(_branches(sizes, own, centre, top, scale, row, layer))
        if num_layers <= 16 or layer % 4 == 0:
            parts.append(text(INDEX_WIDTH - 8, top + row / 2 + 3.5, str(layer), "tick", "end"))
    parts.append(_trunk(own.hidden * scale, centre, foot, "trunk"))
    parts += _legend(sizes, full, centre, foot, scale)
    return tag("g", *parts, class_=class_)


def _trunk(width: float, centre: float, foot: float, class_: str) -> Markup:
    flare = 5.0
    left, right = centre - width / 2, centre + width / 2
    outline = (
        f"M{left:.1f} {HEAD - 4:.1f}Q{centre:.1f} {HEAD - 10:.1f} {right:.1f} {HEAD - 4:.1f}V{foot:.1f}"
        f"Q{right:.1f} {foot + 5:.1f} {right + flare:.1f} {foot + 6:.1f}H{left - flare:.1f}"
        f"Q{left:.1f} {foot + 5:.1f} {left:.1f} {foot:.1f}Z"
    )
    return tag("path", d=outline, class_=class_)


def _ghost(full: Widths, centre: float, top: float, scale: float, row: float, *, dropped: bool) -> Markup:
    left = centre - full.hidden * scale / 2
    right = centre + full.hidden * scale / 2
    inset, tall = row * 0.17, row * 0.66
    boxes = [(left - full.attention * scale, full.attention * scale), (right, full.ffn * scale)]
    shapes: list[Markup] = [
        tag("rect", x=x, y=top + inset, width=wide, height=tall, rx=min(3.0, tall / 3), class_="ghost")
        for x, wide in boxes
        if wide > 0
    ]
    if dropped and row >= 12:
        shapes.append(
            text(right + full.ffn * scale / 2, top + row / 2 + 3.5, "layer dropped", "tick", "middle")
        )
    return tag("g", *shapes)


def _branches(
    sizes: dict[str, int], own: Widths, centre: float, top: float, scale: float, row: float, layer: int
) -> Markup:
    inset, tall = row * 0.17, row * 0.66
    half = own.hidden * scale / 2
    radius = min(3.0, tall / 3)
    shapes = _heads(sizes, centre - half, top + inset, tall, scale, radius)
    if own.ffn:
        shapes.append(
            tag(
                "rect",
                x=centre + half,
                y=top + inset,
                width=own.ffn * scale,
                height=tall,
                rx=radius,
                class_="ffn",
            )
        )
    return tag("g", hover(f"Layer {layer}: {_in_words(sizes)}"), *shapes)


def _heads(
    sizes: dict[str, int], right: float, top: float, tall: float, scale: float, radius: float
) -> list[Markup]:
    """Query heads outwards from the trunk; one block per key-value group where heads would be too thin."""
    num_kv, group, dim = sizes.get("kv", 0), sizes.get("group", 1), sizes.get("dim", 0)
    per_block = 1 if dim * scale >= 3.5 else group if group * dim * scale >= 3.5 else num_kv * group
    block = per_block * dim * scale
    blocks = []
    for index in range(num_kv * group // max(per_block, 1)):
        ends_group = (index + 1) * per_block % group == 0
        gap = 2.0 if ends_group and block > 4 else 0.7
        blocks.append(
            tag(
                "rect",
                x=right - (index + 1) * block + (gap if block > 2 * gap else 0.0),
                y=top,
                width=max(block - gap, 0.8),
                height=tall,
                rx=min(radius, block / 4),
                class_="heads",
            )
        )
    return blocks


def _legend(sizes: dict[str, int], full: Widths, centre: float, foot: float, scale: float) -> list[Markup]:
    num_heads = sizes.get("kv", 0) * sizes.get("group", 1)
    half = full.hidden * scale / 2
    ffn = (
        f"{sizes['expert']} experts × {sizes['effn']:,}"
        if "expert" in sizes
        else f"ffn {sizes.get('ffn', 0):,}"
    )
    columns = [
        (
            centre - half - full.attention * scale / 2,
            f"{num_heads} heads",
            f"{sizes.get('kv', 0)} kv, dim {sizes.get('dim', 0)}",
        ),
        (centre, f"{sizes.get('hidden', 0):,}", "hidden"),
        (centre + half + full.ffn * scale / 2, ffn, "neurons per layer"),
    ]
    lines = []
    for x, first, second in columns:
        lines.append(text(x, foot + 21, first, "label", "middle"))
        lines.append(text(x, foot + 34, second, "tick", "middle"))
    return lines


def _in_words(sizes: dict[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())
