"""What a verb prints: tables for people, or with `--json` one line of JSON on standard output, nothing else.

Notes, progress and errors go to standard error either way, and the exit codes are the same.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one line of JSON, and nothing else, on stdout.")
]


@contextmanager
def tables_aside(aside: bool) -> Iterator[None]:
    """Send what the body prints for people to standard error, where standard output is for JSON."""
    if not aside:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(result: Any) -> None:
    """Print one line of JSON. Dataclasses become objects, paths text, numbers that are not finite null."""
    typer.echo(json.dumps(plain(result), ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """`value` out of the types that JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value
