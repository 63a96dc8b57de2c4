"""Verbs that look and change nothing: env."""

from __future__ import annotations

from typing import Any

import typer

from niwaki.cli.app import app
from niwaki.cli.output import AsJson, print_json


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
