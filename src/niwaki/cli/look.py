"""Verbs that look and change nothing: compare, env."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from niwaki.cli.app import app
from niwaki.cli.output import AsJson, print_json


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories; a family stands for its members.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model to compare in each run, such as trimmed. Default: the one that it made."),
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs with the first, in pairs.

    Differences on the same held-out rows and questions, with intervals. Of one run, its own models.
    """
    from niwaki.pipelines.compare_runs import compare_runs, show

    compared = compare_runs(runs, model=model, confidence=confidence)
    if as_json:
        print_json(compared)
    else:
        show(compared)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Show versions, machine and settings, for a bug report.

    It holds no token and no name of a home folder.
    """
    from niwaki.pipelines.machine import environment

    found = environment()
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        typer.echo(f"{name.removesuffix('_bytes'):<{width}}  {_in_words(name, value)}")


def _in_words(name: str, value: Any) -> str:
    from niwaki.pipelines.spoken import in_bytes

    if name.endswith("_bytes"):
        return in_bytes(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(value) or "none"
    return "not installed" if value is None else str(value)
