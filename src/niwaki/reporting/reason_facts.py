"""The files of a reason run in, what its page shows out. A stage that has not run is None or empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niwaki.ground.metrics import read_metrics
from niwaki.ground.run import is_done
from niwaki.reporting.run_files import naming, open_run, read_json, recipe_text

STAGES = ("1-curate", "2-blend", "3-warm-up", "4-rl", "5-evaluate")
_SHOWN_ROLLOUTS = 8
_REASONS_SHARE = 0.1


@dataclass(frozen=True)
class ReasonRun:
    """A reason run as its files tell it."""

    name: str
    manifest: dict[str, Any]
    recipe: str | None
    finished: dict[str, bool]
    warm_up: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    rollouts: list[dict[str, Any]]
    results: dict[str, Any] | None
    domains: tuple[str, ...] = field(default=())


def read_run(run_dir: str | Path) -> ReasonRun:
    """Read what the stages have written so far.

    Raises:
        RunError: `run_dir` is not a run directory, or one of its files is damaged.
    """
    run = open_run(run_dir, *STAGES)
    steps = read_metrics(run / "4-rl" / "metrics.jsonl")
    with naming(run / "4-rl" / "metrics.jsonl"):
        domains = tuple(sorted({name for step in steps for name in step["domains"]}))
    return ReasonRun(
        name=run.resolve().name,
        manifest=read_json(run / "manifest.json", dict) or {},
        recipe=recipe_text(run),
        finished={name: is_done(run, name) for name in STAGES},
        warm_up=read_metrics(run / "3-warm-up" / "metrics.jsonl"),
        steps=steps,
        rollouts=read_metrics(run / "4-rl" / "rollouts.jsonl"),
        results=read_json(run / "5-evaluate" / "results.json", dict),
        domains=domains,
    )


def share_by_step(
    steps: Sequence[Mapping[str, Any]], count: str, of: str, *, domain: str | None = None, window: int
) -> list[tuple[float, float]]:
    """(step, sum of `count` / sum of `of`) over windows of steps, empty windows left out."""
    points = []
    for start in range(0, len(steps), window):
        block = steps[start : start + window]
        rows = [step if domain is None else step["domains"].get(domain, {}) for step in block]
        total = sum(row.get(of, 0) for row in rows)
        if total:
            points.append((float(block[-1]["step"]), sum(row.get(count, 0) for row in rows) / total))
    return points


def reasons(steps: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[str, float, float]]:
    """(code, share in the first tenth of the steps, share in the last), the commonest first.

    `kind` is "reasons" or "forms".
    """
    if not steps:
        return []
    part = max(1, round(len(steps) * _REASONS_SHARE))
    first, last = (
        sum((Counter(step[kind]) for step in block), Counter()) for block in (steps[:part], steps[-part:])
    )
    rows = [
        (code, first[code] / max(1, first.total()), last[code] / max(1, last.total()))
        for code in set(first) | set(last)
    ]
    return sorted(rows, key=lambda row: -max(row[1], row[2]))


def chosen_rollouts(rollouts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Early and late rollouts, right and wrong ones, of as many domains as there are."""
    if not rollouts:
        return []
    first, last = rollouts[0]["step"], rollouts[-1]["step"]
    middle = (first + last) / 2
    chosen: list[Mapping[str, Any]] = []
    for late in (False, True):
        pool = [r for r in rollouts if (r["step"] > middle) == late]
        pool = list(reversed(pool)) if late else pool
        seen: set[tuple[str, bool]] = set()
        picked = []
        for rollout in pool:
            key = (rollout["domain"], rollout["correct"])
            if key not in seen:
                seen.add(key)
                picked.append(rollout)
        picked = sorted(picked[: _SHOWN_ROLLOUTS // 2], key=lambda r: r["step"])
        chosen += picked
    return chosen
