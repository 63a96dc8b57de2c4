"""The page of a reason run: funnel, blend, learning by domain, lengths, rollouts with their verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from niwaki.ground.run import write_atomically
from niwaki.reporting import figures, words
from niwaki.reporting.curation_page import curation_facts
from niwaki.reporting.figures import Line
from niwaki.reporting.page import Figure, both_widths, render
from niwaki.reporting.reason_facts import (
    ReasonRun,
    chosen_rollouts,
    read_run,
    reasons,
    share_by_step,
)
from niwaki.reporting.table import MISSING, Cell

TITLES = {"start": "Before", "warmed": "Warmed up", "trained": "After GRPO"}
_CURVE_POINTS = 20
_COLOURS = ("distilled", "random", "teacher", "plain", "trimmed", "corrected")


def write_reason_report(run_dir: str | Path) -> Path:
    """Write `report.html` into the run directory and return its path; a stage that has not run is said so.

    Raises:
        RunError: `run_dir` is not a run directory, or one of its files is damaged.
    """
    run = read_run(run_dir)
    out = Path(run_dir) / "report.html"
    curated = curation_facts(Path(run_dir))
    facts = (curated or {}) | page_facts(run) | {"curated": curated is not None}
    write_atomically(out, render("reason.html.j2", facts))
    return out


def page_facts(run: ReasonRun) -> dict[str, Any]:
    """Everything the page shows, in the words and drawings it shows it in."""
    return {
        "run": run,
        "headline": _headline(run),
        "lede": _lede(run),
        "steps": _states(run),
        "table": _results(run),
        "titles": TITLES,
        "learning": _curves(run, "right", "rollouts", "share of right rollouts", by_domain=True),
        "lengths": _curves(run, "tokens", "rollouts", "tokens of a rollout", by_domain=True),
        "signal": _signal(run),
        "truncation": _truncation(run),
        "verdicts": reasons(run.steps, "reasons"),
        "forms": reasons(run.steps, "forms"),
        "rollouts": chosen_rollouts(run.rollouts),
        "provenance": _provenance(run),
    }


def _headline(run: ReasonRun) -> str:
    if run.results is None:
        done = [name.split("-", 1)[1] for name, is_done in run.finished.items() if is_done]
        return f"{run.name}: {', '.join(done)} done." if done else f"{run.name}: nothing has finished yet."
    before, after = (run.results["models"][name]["all"] for name in _ends(run))
    return (
        f"Accuracy on {after['questions']:,} held-out questions went from {_percent(before['accuracy'])} "
        f"to {_percent(after['accuracy'])}."
    )


def _lede(run: ReasonRun) -> str | None:
    if run.results is None or "gain" not in run.results:
        return None
    gain = run.results["gain"]["all"]
    sure = "a difference" if gain["low"] > 0 or gain["high"] < 0 else "no certain difference"
    return (
        f"On the same questions that is {100 * gain['mean']:+.1f} points (95 % interval "
        f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}): {sure}."
    )


def _ends(run: ReasonRun) -> tuple[str, str]:
    assert run.results is not None
    names = list(run.results["models"])
    return ("warmed" if "warmed" in names else names[0]), names[-1]


def _states(run: ReasonRun) -> list[tuple[str, str, str]]:
    anchors = {
        "1-curate": "funnel",
        "2-blend": "blend",
        "3-warm-up": "learning",
        "4-rl": "learning",
        "5-evaluate": "results",
    }
    begun = {"3-warm-up": bool(run.warm_up), "4-rl": bool(run.steps)}
    has_warm_up = run.finished["3-warm-up"] or bool(run.warm_up)
    return [
        (
            stage.split("-", 1)[1],
            anchor,
            "done" if run.finished[stage] else "under way" if begun.get(stage) else "not run",
        )
        for stage, anchor in anchors.items()
        if stage != "3-warm-up" or has_warm_up
    ]


def _results(run: ReasonRun) -> dict[str, Any] | None:
    """Rows of measurements, a column for each model."""
    if run.results is None:
        return None
    models: Mapping[str, Any] = run.results["models"]
    rows: list[tuple[str, str, list[Cell]]] = [
        ("Accuracy", "%", [_interval(model["all"]["accuracy"]) for model in models.values()])
    ]
    for kind in ("domains", "benchmarks"):
        names = sorted({name for model in models.values() for name in model[kind]})
        rows += [
            (
                name,
                f"% of {'domain' if kind == 'domains' else 'benchmark'}",
                [
                    _interval(model[kind][name]["accuracy"]) if name in model[kind] else MISSING
                    for model in models.values()
                ],
            )
            for name in names
            if len(names) > 1
        ]
    ks = [k for k in next(iter(models.values()))["all"]["pass_at"] if k != "1"]
    rows += [(f"pass@{k}", "%", [_interval(m["all"]["pass_at"][k]) for m in models.values()]) for k in ks]
    rows += [
        ("Majority vote", "%", [_interval(model["all"]["majority"]) for model in models.values()]),
        ("Tokens of a right answer", "", [_number(m["all"]["tokens_of_right"]) for m in models.values()]),
        ("Tokens of a wrong answer", "", [_number(m["all"]["tokens_of_wrong"]) for m in models.values()]),
        (
            "Tokens spent per right answer",
            "wrong ones included",
            [_cost(model["all"]["tokens_per_right"]) for model in models.values()],
        ),
        ("Cut by the limit", "%", [Cell(f"{100 * m['all']['truncated']:.1f}") for m in models.values()]),
    ]
    return {"columns": list(models), "rows": rows}


def _curves(run: ReasonRun, count: str, of: str, y_title: str, *, by_domain: bool = False) -> Figure | None:
    if len(run.steps) < 2:
        return None
    window = max(1, len(run.steps) // _CURVE_POINTS)
    lines = [Line("all", "distilled", share_by_step(run.steps, count, of, window=window))]
    if by_domain and len(run.domains) > 1:
        lines = [
            Line(
                name,
                _COLOURS[number % len(_COLOURS)],
                share_by_step(run.steps, count, of, domain=name, window=window),
            )
            for number, name in enumerate(run.domains)
        ]
    return _chart(lines, y_title)


def _truncation(run: ReasonRun) -> Figure | None:
    if not any(step["truncated"] for step in run.steps):
        return None
    return _curves(run, "truncated", "rollouts", "share of rollouts cut by the limit")


def _signal(run: ReasonRun) -> Figure | None:
    if len(run.steps) < 2:
        return None
    window = max(1, len(run.steps) // _CURVE_POINTS)
    lines = [
        Line(name, class_, share_by_step(run.steps, count, "groups", window=window))
        for name, class_, count in (
            ("all right", "distilled", "groups_all_right"),
            ("all wrong", "random", "groups_all_wrong"),
        )
    ]
    return _chart(lines, "share of groups")


def _chart(lines: list[Line], y_title: str) -> Figure:
    return both_widths(
        lambda width: figures.line_chart(
            lines,
            width=width,
            label=f"{y_title}, by step: {', '.join(line.name for line in lines)}.",
            x_title="steps",
            y_title=y_title,
            log=False,
        )
    )


def _provenance(run: ReasonRun) -> list[tuple[str, str]]:
    manifest = run.manifest
    hardware = manifest.get("hardware") or {}
    facts = {
        "Command": manifest.get("command"),
        "Created": manifest.get("created"),
        "Seed": manifest.get("seed"),
        "Model": manifest.get("model"),
        "Processor": hardware.get("cpu"),
        "Processor cores": hardware.get("num_cpus"),
        "Accelerators": ", ".join(map(str, hardware.get("accelerators") or [])) or "none",
        "niwaki": manifest.get("niwaki"),
        **(manifest.get("versions") or {}),
    }
    return [(what, str(value)) for what, value in facts.items() if value is not None]


def _interval(value: Mapping[str, float]) -> Cell:
    return Cell(f"{100 * value['mean']:.1f}", f"{100 * value['low']:.1f}–{100 * value['high']:.1f}")


def _cost(value: Mapping[str, float | None] | None) -> Cell:
    if value is None or value["mean"] is None:
        return MISSING
    low, high = (
        "∞" if bound is None else words.significant(bound) for bound in (value["low"], value["high"])
    )
    return Cell(words.significant(value["mean"]), f"{low}–{high}")


def _number(value: float | None) -> Cell:
    return MISSING if value is None else Cell(words.significant(value))


def _percent(value: Mapping[str, float]) -> str:
    return f"{100 * value['mean']:.1f} %"
