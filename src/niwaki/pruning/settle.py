"""When did the ranking settle? Ranks of the candidates at every recorded step, against those at the end.

In: each candidate's losses along its trial, and the final order. Out: ranks and Kendall's tau by step, and
the first step from which the winner, and the whole order, no longer changed. Minitron (arXiv 2407.14679,
Figure 9) saw its candidates change places until about step 300 of 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Settling:
    """How the ranking came about; candidates keep the order of the curves that were given.

    Attributes:
        steps: where losses were recorded.
        ranks: per step, the rank of each candidate, 1 for the least loss; None where it has no loss.
        taus: per step, Kendall's tau between these ranks and the final order of the same candidates, 1 for
            the same order and -1 for the reverse; None where fewer than two have a loss.
        winner_step: the first recorded step from which the final winner stayed first; None if it never
            settled, that is, if it was not first at the last two recorded steps.
        order_step: the same for the whole order.
    """

    steps: tuple[int, ...]
    ranks: tuple[tuple[int | None, ...], ...]
    taus: tuple[float | None, ...]
    winner_step: int | None
    order_step: int | None


def settle(curves: Sequence[Points], final: Sequence[int]) -> Settling | None:
    """Follow a ranking through the recorded steps.

    Args:
        curves: per candidate, (step, loss); a candidate that stopped early has fewer.
        final: the candidates by number, best first, as they were ranked in the end.

    Returns:
        None where no two candidates have losses at a common step.
    """
    losses = [dict(curve) for curve in curves]
    steps = sorted({step for curve in losses for step in curve})
    ranks = [_ranks([curve.get(step) for curve in losses]) for step in steps]
    taus = [_tau(at_step, final) for at_step in ranks]
    if all(tau is None for tau in taus):
        return None
    first = [at_step[final[0]] == 1 for at_step in ranks]
    return Settling(
        steps=tuple(steps),
        ranks=tuple(ranks),
        taus=tuple(taus),
        winner_step=_held_from(steps, first),
        order_step=_held_from(steps, [tau in (1.0, None) for tau in taus]),
    )


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-a of two rankings of the same things: (agreeing - disagreeing pairs) / all pairs."""
    pairs = [
        ((one[i] > one[j]) - (one[i] < one[j])) * ((other[i] > other[j]) - (other[i] < other[j]))
        for i, j in combinations(range(len(one)), 2)
    ]
    return sum(pairs) / len(pairs)


def _ranks(losses: Sequence[float | None]) -> tuple[int | None, ...]:
    """Ranks from 1; equal losses share the better rank."""
    known = [loss for loss in losses if loss is not None]
    return tuple(None if loss is None else 1 + sum(other < loss for other in known) for loss in losses)


def _tau(ranks: Sequence[int | None], final: Sequence[int]) -> float | None:
    here = [(rank, final.index(number)) for number, rank in enumerate(ranks) if rank is not None]
    if len(here) < 2:
        return None
    now, then = zip(*here, strict=True)
    return kendall_tau(now, then)


def _held_from(steps: Sequence[int], held: Sequence[bool]) -> int | None:
    """The first step from which it held to the end. The end alone shows nothing, so it does not count."""
    lasting = 0
    while lasting < len(held) and held[-1 - lasting]:
        lasting += 1
    return steps[-lasting] if lasting > 1 else None
