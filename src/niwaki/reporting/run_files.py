"""The files of a run directory, read for a page: what a stage has not written is None, damage is named.

Stages write JSON and never hear of reports (docs/architecture.md, "A run directory").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from niwaki.errors import RunError

RECIPE, MANIFEST = "recipe.yaml", "manifest.json"
_REMEDY = "Run the stage again, or remove the file to report without it."
Facts = TypeVar("Facts")


def open_run(run_dir: str | Path, *stages: str) -> Path:
    """The directory of a run: it holds a recipe, a manifest or a stage. Raises RunError if it does not."""
    run = Path(run_dir)
    if not any((run / name).exists() for name in (RECIPE, MANIFEST, *stages)):
        expected = ", ".join((RECIPE, MANIFEST, *(f"{stage}/" for stage in stages[:1])))
        raise RunError(
            f"{run} is not a run directory: expected one of {expected} in it.",
            "Give the folder that `niwaki run` wrote, such as runs/demo.",
        )
    return run


def recipe_text(run: Path) -> str | None:
    """The recipe as it was written into the run."""
    file = run / RECIPE
    return file.read_text(encoding="utf-8") if file.exists() else None


def read_json(path: Path, build: Callable[[dict[str, Any]], Facts]) -> Facts | None:
    """What `build` makes of a stage's JSON file. Raises RunError where it is damaged or means nothing."""
    if not path.exists():
        return None
    with naming(path):
        return build(json.loads(path.read_text(encoding="utf-8")))


def read_files(run: Path, files: Mapping[str, str]) -> dict[str, Any]:
    """Name -> content of each JSON file that is there; None for the others."""
    return {name: read_json(run / file, lambda content: content) for name, file in files.items()}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever shows that the content is not what a stage writes becomes a RunError that names the place."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read as the result of its stage: {error!r}.", _REMEDY) from error
