"""The page of a reward run: how well it orders pairs, what it is made of, what it is wrong about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from niwaki.ground.run import write_atomically
from niwaki.reporting import figures
from niwaki.reporting.page import Figure, both_widths, render
from niwaki.reporting.run_files import naming, open_run, read_files, recipe_text

_FILES = {
    "data": "1-data/data.json",
    "expo": "4-extrapolate/expo.json",
    "objectives": "6-objectives/objectives.json",
    "calibration": "7-calibrate/calibration.json",
    "results": "8-evaluate/results.json",
    "justifier": "9-justify/results.json",
}


def write_reward_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a reward run's directory and return its path; what has not run is left out.

    Raises:
        RunError: it is no reward run, or one of its files is damaged.
    """
    run = open_run(run_dir)
    recipe = recipe_text(run)
    facts = read_reward(run) | {"recipe": recipe}
    with naming(run / "recipe.yaml"):
        facts["backbone"] = yaml.safe_load(recipe or "")["backbone"]
    out = run / "report.html"
    write_atomically(out, render("reward.html.j2", facts))
    return out


def read_reward(run: Path) -> dict[str, Any]:
    """`reward_facts` of a run directory. Raises RunError where one of its files is damaged."""
    found = read_files(run, _FILES)
    with naming(run):
        return reward_facts(found, name=run.resolve().name)


def reward_facts(found: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Everything the page shows, from the files of the run that are there."""
    results = found.get("results")
    judged = results["sets"]["test"] if results else None
    return {
        "name": name,
        "headline": _headline(judged, found.get("justifier")),
        "justifier": found.get("justifier"),
        "data": found.get("data"),
        "sets": [_set(side, one) for side, one in (results["sets"] if results else {}).items()],
        "warnings": (results or {}).get("warnings", []),
        "notes": (found.get("data") or {}).get("warnings", []),
        "expo": found.get("expo"),
        "expo_picture": _expo(found.get("expo")),
        "objectives": _objectives(found.get("objectives")),
        "calibration": found.get("calibration"),
        "reliability": _reliability(judged),
        "reliability_rows": (judged or {}).get("reliability", {}),
        "errors": (judged or {}).get("errors", []),
        "benchmarks": {n: results[n] for n in ("rewardbench", "rewardbench2") if results and n in results},
    }


def _headline(judged: Mapping[str, Any] | None, justifier: Mapping[str, Any] | None) -> str:
    if judged is None and justifier is not None:
        accuracy = justifier["judged"]["accuracy"]
        return (
            f"Of {justifier['judged']['num_pairs']:,} test pairs {accuracy['mean']:.1%} are in order "
            f"({accuracy['low']:.1%} to {accuracy['high']:.1%}), each asked in both orders."
        )
    if judged is None:
        return "A reward model, not finished yet."
    model, longer = judged["models"][judged["final"]], judged["models"]["longer answer"]["accuracy"]["mean"]
    accuracy = model["accuracy"]
    return (
        f"Of {model['num_pairs']:,} test pairs {accuracy['mean']:.1%} are in order "
        f"({accuracy['low']:.1%} to {accuracy['high']:.1%}); taking the longer answer gets {longer:.1%}."
    )


def _set(side: str, judged: Mapping[str, Any]) -> dict[str, Any]:
    final, rows = judged["final"], []
    for name, model in judged["models"].items():
        against = judged["against_final"].get(name)
        lengths = model["by_length"]
        rows.append(
            {
                "name": name,
                "final": name == final,
                "accuracy": model["accuracy"],
                "against": against,
                "longer": lengths.get("chosen longer"),
                "shorter": lengths.get("chosen shorter"),
                "correlation": model["length_correlation"],
            }
        )
    return {
        "title": {"test": "Test pairs", "more": "Other test pairs"}[side],
        "num_pairs": judged["models"][final]["num_pairs"],
        "rows": rows,
        "by_subset": judged["models"][final]["by_subset"],
        "by_strength": judged["models"][final].get("by_strength", {}),
    }


def _expo(expo: Mapping[str, Any] | None) -> Figure | None:
    if expo is None or len(expo["curve"]) < 2:
        return None
    points = [(float(p["a"]), 100 * p["accuracy"]) for p in expo["curve"]]
    chosen = [p for p in points if p[0] == expo["a"]]
    lines = [figures.Line("", "plain", points, marked=True), figures.Line("chosen", "distilled", chosen)]
    return _chart(
        lines,
        "Accuracy on validation pairs by the length of the step.",
        "step a",
        "validation pairs in order, %",
    )


def _reliability(judged: Mapping[str, Any] | None) -> Figure | None:
    found = (judged or {}).get("reliability", {}).get("all")
    if found is None or len(found["confidence"]) < 2:
        return None
    points = list(zip(found["confidence"], found["accuracy"], strict=True))
    lines = [
        figures.Line("calibrated", "teacher", [(0.5, 0.5), (1.0, 1.0)]),
        figures.Line("model", "distilled", points, marked=True),
    ]
    return _chart(
        lines, "How often the preferred answer is the better one.", "the model's confidence", "in order"
    )


def _chart(lines: list[figures.Line], label: str, x_title: str, y_title: str) -> Figure:
    return both_widths(
        lambda width: figures.line_chart(
            lines, width=width, label=label, x_title=x_title, y_title=y_title, log=False
        )
    )


def _objectives(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    names = [o["name"] for o in record["objectives"]]
    debiasing, rows = record["debiasing"], []
    for k, objective in enumerate(record["objectives"]):
        rows.append(
            {
                **objective,
                "nuisance": objective["name"] in debiasing["nuisances"],
                "correlations": [
                    {key: debiasing[key][v][k] for key in _WHEN} for v in range(len(debiasing["nuisances"]))
                ],
                "gates": {source: gates[k] for source, gates in record["gates"].items()},
            }
        )
    return {
        "names": names,
        "rows": rows,
        "nuisances": debiasing["nuisances"],
        "sources": list(record["gates"]),
        "accuracy": record["accuracy"],
        "gate": record["gate"],
    }


_WHEN = ("reference_before", "reference_after", "other_before", "other_after")
