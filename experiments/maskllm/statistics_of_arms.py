"""Arms compared seed by seed, as tables: losses, differences with Student's t intervals, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from bench import SEEDS
from scipy.stats import t as student_t

Found = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> results of its seeds

DENSE, UPDATED = "dense", "sparsegpt, weights updated"


def by_seed(found: Found, arm: str, key: str = "loss") -> dict[int, float]:
    return {result["seed"]: result[key] for result in found.get(arm, [])}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's t interval, 95 %, of a few independent values."""
    centre = mean(values)
    half = float(student_t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return centre, centre - half, centre + half


def differences(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Differences of the seeds that both have."""
    return [one[seed] - other[seed] for seed in sorted(set(one) & set(other))]


def claim(what: str, lower: Mapping[int, float], higher: Mapping[int, float]) -> str:
    """A row: is the one lower than the other, seed by seed?"""
    centre, low, high = interval(differences(lower, higher))
    verdict = "agreed" if high < 0 else "not agreed" if low > 0 else "cannot tell"
    return f"| {what} | {centre:+.4f} ({low:+.4f} to {high:+.4f}) | **{verdict}** |"


def claims(found: Found, pairs: Sequence[tuple[str, str]], key: str = "loss") -> list[str]:
    """A table: is the first arm of each pair lower than the second?"""
    rows = []
    for better, worse in pairs:
        one, other = by_seed(found, better, key), by_seed(found, worse, key)
        finished = len(differences(one, other))
        unfinished = f"| {better} < {worse} | {finished} of {len(SEEDS)} seeds finished | not run |"
        rows.append(claim(f"{better} < {worse}", one, other) if finished >= len(SEEDS) else unfinished)
    what = "difference in nats" if key == "loss" else f"difference of {key.replace('_', ' ')}"
    return [f"| claim | {what} (95 % over seeds) | verdict |", "|---|---|---|", *rows, ""]


def table(found: Found, arms: Sequence[str]) -> list[str]:
    lines = [
        "| masks | nats per held-out token, mean ± s.d. over seeds | seeds | closes of the gap |",
        "|---|---|---|---|",
    ]
    for arm in arms:
        losses = list(by_seed(found, arm).values())
        if not losses:
            continue
        spread = f" ± {stdev(losses):.4f}" if len(losses) > 1 else ""
        lines.append(f"| {arm} | {mean(losses):.4f}{spread} | {len(losses)} | {closed(found, arm)} |")
    return [*lines, ""]


def closed(found: Found, arm: str) -> str:
    """Of the gap between SparseGPT with updated weights and the dense model."""
    one, top, floor = by_seed(found, arm), by_seed(found, UPDATED), by_seed(found, DENSE)
    seeds = sorted(set(one) & set(top))
    if not seeds or arm in (DENSE, UPDATED) or not floor:
        return ""
    dense = next(iter(floor.values()))
    shares = [(top[seed] - one[seed]) / (top[seed] - dense) for seed in seeds]
    if mean(shares) < 0:
        return ""
    spread = ""
    if len(shares) > 1:
        _, low, high = interval(shares)
        spread = f" ({low:.0%} to {high:.0%})"
    return f"{mean(shares):.0%}{spread}"


def sweep(found: Found, arms: Sequence[str], extra: str, key: str) -> list[str]:
    """A table: the loss of each arm, and one more figure."""
    lines = [f"| arm | nats | {extra} |", "|---|---|---|"]
    for arm in arms:
        results = found.get(arm, [])
        if results:
            values = [result.get(key) for result in results if result.get(key) is not None]
            shown = f"{mean(values):.4f}" if values else ""
            lines.append(f"| {arm} | {mean(by_seed(found, arm).values()):.4f} | {shown} |")
    return [*lines, ""]
