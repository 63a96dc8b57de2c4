"""Does one arm lose less than another? Differences by seed, with Student's t interval over seeds.

Each seed's difference is over the same held-out rows, so what the rows have in common falls out. With three
seeds the interval is wide on purpose: it has to hold for a fourth one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from scipy.stats import t as student_t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """The claim that `better` has a lower held-out loss than `worse`, "before" or "after" training."""

    better: str
    worse: str
    when: Literal["before", "after"] = "after"
    equal_within: float | None = None  # instead: the claim that they are equal, to so many nats


def compare(claim: Comparison, arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Difference `better - worse` in nats, its interval, and the verdict on the claim."""
    pairs = zip(arms[claim.better], arms[claim.worse], strict=True)
    differences = [mean(a[claim.when]) - mean(b[claim.when]) for a, b in pairs]
    centre, low, high = interval(differences)
    return {
        "better": claim.better,
        "worse": claim.worse,
        "when": claim.when,
        "differences": [round(d, 5) for d in differences],
        "difference": round(centre, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "verdict": verdict(low, high, claim.equal_within),
        **({} if claim.equal_within is None else {"equal_within": claim.equal_within}),
    }


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's t interval of a few independent values."""
    centre = mean(values)
    half = student_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return centre, centre - half, centre + half


def verdict(low: float, high: float, equal_within: float | None) -> str:
    """ "agreed" when the whole interval is on the claim's side, "not agreed" when on the other side."""
    if equal_within is not None:
        if -equal_within <= low and high <= equal_within:
            return "agreed"
        return "not agreed" if low > equal_within or high < -equal_within else "cannot tell"
    if high < 0:
        return "agreed"
    return "not agreed" if low > 0 else "cannot tell"
