"""Arms compared seed by seed: differences, Student's t intervals over seeds, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t

Questions = Mapping[str, Sequence]
Measure = Callable[[Questions], float]
# Columns of a question's record.
BENCHMARK, DOMAIN, RIGHT, SAMPLES, TOKENS, RIGHT_TOKENS, CUT = range(7)


@dataclass(frozen=True)
class Difference:
    """Mean over seeds with its 95 % interval."""

    mean: float
    low: float
    high: float


def load(path: Path) -> dict[str, dict[int, Questions]]:
    """Arm -> seed -> questions."""
    arms: dict[str, dict[int, Questions]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        arms.setdefault(row["arm"], {})[row["seed"]] = row["questions"]
    return arms


def accuracy(domain: str | None = None, *, choices: bool = False) -> Measure:
    """Percentage of right samples, a mean over benchmarks, so that no set outweighs another.

    `choices`: of multiple-choice benchmarks alone.
    """

    def measure(questions: Questions) -> float:
        shares: dict[str, list[float]] = {}
        for row in questions.values():
            if domain in (None, row[DOMAIN]) and (row[BENCHMARK].endswith("-mc") or not choices):
                shares.setdefault(row[BENCHMARK], []).append(row[RIGHT] / row[SAMPLES])
        return 100 * sum(sum(s) / len(s) for s in shares.values()) / len(shares)

    return measure


def tokens_of_right(domain: str) -> Measure:
    """Mean tokens of right answers."""

    def measure(questions: Questions) -> float:
        rows = [row for row in questions.values() if row[DOMAIN] == domain]
        return sum(row[RIGHT_TOKENS] for row in rows) / max(1, sum(row[RIGHT] for row in rows))

    return measure


def tokens_per_right(questions: Questions) -> float:
    """All tokens for each right answer."""
    return sum(row[TOKENS] for row in questions.values()) / sum(row[RIGHT] for row in questions.values())


def over_seeds(values: Sequence[float]) -> Difference:
    """Student's t interval, 95 %, of the mean of values that belong to one seed each."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Difference(mean, float("-inf"), float("inf"))
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    half = float(t.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5
    return Difference(mean, mean - half, mean + half)


def difference(arm: Mapping[int, Questions], other: Mapping[int, Questions], measure: Measure) -> Difference:
    """`arm` less `other`, seed by seed."""
    return over_seeds([measure(arm[s]) - measure(other[s]) for s in sorted(set(arm) & set(other))])


def verdict(found: Difference, *, margin: float | None = None) -> str:
    """Of a claim that the difference is above 0, or with a margin that it is within it."""
    if margin is not None:
        if -margin < found.low and found.high < margin:
            return "agreed"
        return "not agreed" if found.low > 0 or found.high < 0 else "cannot tell"
    return "agreed" if found.low > 0 else "not agreed" if found.high < 0 else "cannot tell"
