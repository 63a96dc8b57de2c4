"""The table that a reason run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_NAMES = {"start": "before", "warmed": "warmed up", "trained": "after GRPO"}


def show(results: Mapping[str, Any], *, out: Path) -> None:
    """Print accuracy by domain, its gain, tokens and truncation of each model, and where the rest is."""
    models: Mapping[str, Mapping[str, Any]] = results["models"]
    domains = sorted({domain for model in models.values() for domain in model["domains"]})
    table = Table(title=f"\n{out}", title_justify="left")
    table.add_column("held-out accuracy")
    for name in models:
        table.add_column(_NAMES[name], justify="right")
    table.add_column("gain", justify="right")
    for domain in ("all", *domains):
        figures = [m["all"] if domain == "all" else m["domains"].get(domain) for m in models.values()]
        gain = results["gain"].get(domain)
        table.add_row(
            domain,
            *("" if f is None else _interval(f["accuracy"]) for f in figures),
            "" if gain is None else _interval(gain, sign="+"),
        )
    for label, value in (
        ("majority vote", lambda figures: _interval(figures["majority"])),
        ("tokens per right answer", lambda figures: _cost(figures["tokens_per_right"])),
        ("cut by the limit", lambda figures: f"{100 * figures['truncated']:.1f} %"),
    ):
        table.add_row(label, *(value(model["all"]) for model in models.values()), "")
    console = Console()
    console.print(table)
    console.print(f"report: {out / 'report.html'}\nmodel:  {out / '4-rl' / 'model'}", highlight=False)


def show_one(results: Mapping[str, Any], *, out: Path) -> None:
    """Print accuracy, pass@k and tokens of one model, by benchmark."""
    table = Table(title=f"\n{out}", title_justify="left")
    for name in ("benchmark", "accuracy", *(f"pass@{k}" for k in results["all"]["pass_at"] if k != "1")):
        table.add_column(name, justify="left" if name == "benchmark" else "right")
    for name in ("majority", "tokens per right answer", "cut"):
        table.add_column(name, justify="right")
    for name, figures in {**results["benchmarks"], "all": results["all"]}.items():
        table.add_row(
            name,
            _interval(figures["accuracy"]),
            *(_interval(value) for k, value in figures["pass_at"].items() if k != "1"),
            _interval(figures["majority"]),
            _cost(figures["tokens_per_right"]),
            f"{100 * figures['truncated']:.1f} %",
        )
    Console().print(table)


def _interval(value: Mapping[str, float], *, sign: str = "") -> str:
    return (
        f"{100 * value['mean']:{sign}.1f} ({100 * value['low']:{sign}.1f} to {100 * value['high']:{sign}.1f})"
    )


def _cost(value: Mapping[str, float | None] | None) -> str:
    return "none" if value is None else f"{value['mean']:.0f}"
