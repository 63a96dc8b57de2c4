"""The table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_NAMES = {
    "teacher": "teacher",
    "parent": "parent",
    "corrected": "corrected teacher",
    "trimmed": "trimmed",
    "distilled": "distilled",
    "random": "random start",
}


def show(results: Mapping[str, Any], *, out: Path) -> None:
    """Print parameters, held-out loss, task accuracy, speed and size of each model, and where the rest is."""
    models: Mapping[str, Mapping[str, Any]] = results["models"]
    tasks = sorted({task for result in models.values() for task in result["tasks"]})
    has_speed = any("speed" in result for result in models.values())
    table = Table(title=f"\n{out}", title_justify="left")
    table.add_column("model")
    numbers = ["parameters", "held-out loss", *tasks, *(["tokens/s"] if has_speed else []), "MB"]
    for name in numbers:
        table.add_column(name, justify="right")
    for name, result in models.items():
        loss = result["held_out_loss"]
        half = (loss["high"] - loss["low"]) / 2
        row = [_NAMES[name], f"{result['num_parameters']:,}", f"{loss['mean']:.3f} ± {half:.3f}"]
        row += [task_score(result["tasks"][task]) for task in tasks]
        if has_speed:
            row.append(f"{result['speed']['decode_tokens_per_s']:,.0f}")
        table.add_row(*row, f"{result['disk_bytes'] / 1e6:.1f}")
    console = Console()
    console.print(table)
    console.print(f"report: {out / 'report.html'}\nmodel:  {out / '4-distill' / 'model'}", highlight=False)


def task_score(metrics: Mapping[str, Any]) -> str:
    """The accuracy of a task, or the first metric of one that has none."""
    if "acc" in metrics:
        return f"{metrics['acc']:.1%}"
    name, value = next((k, v) for k, v in metrics.items() if isinstance(v, float))
    return f"{name} {value:.3f}"
