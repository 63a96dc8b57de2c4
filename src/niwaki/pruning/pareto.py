"""Which candidates nothing beats in both loss and cost, and where less loss starts to cost much more."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[int]:
    """Numbers of the (cost, loss) points that no other point equals or beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda number: points[number])
    best: list[int] = []
    for number in order:
        if not best or points[number][1] < points[best[-1]][1]:
            best.append(number)
    return best


def knee(points: Sequence[Point], on_front: Sequence[int]) -> int | None:
    """The point of the front that lies farthest below the line between its ends, both axes scaled to 0..1.

    None where the front has fewer than three points or does not bend. It is a hint for people, not a choice:
    it moves with the ends of the front. (Satopaa and others, "Finding a Kneedle in a Haystack", 2011.)
    """
    if len(on_front) < 3:
        return None
    (first_cost, first_loss), (last_cost, last_loss) = points[on_front[0]], points[on_front[-1]]

    def depth(number: int) -> float:
        cost, loss = points[number]
        return (
            1 - (cost - first_cost) / (last_cost - first_cost) - (loss - last_loss) / (first_loss - last_loss)
        )

    deepest = max(on_front[1:-1], key=depth)
    return deepest if depth(deepest) > 0 else None
