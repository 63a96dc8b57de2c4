"""Begin or go on with a run: refuse a folder that is something else, write the recipe and the manifest."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers.utils import logging

import niwaki
from niwaki.errors import RunError
from niwaki.ground.folder import writing_to
from niwaki.ground.run import check_inputs, is_done, write_atomically
from niwaki.pipelines.machine import hardware, versions
from niwaki.recipe.kinds import Recipe
from niwaki.recipe.write import dump

RECIPE, MANIFEST = "recipe.yaml", "manifest.json"


def begin(
    out: Path,
    recipe: Recipe,
    facts: Mapping[str, Any],
    stages: Mapping[str, Mapping[str, Any]],
) -> None:
    """Make `out` the directory of this run, or check that it is.

    Args:
        facts: what identifies teacher and data.
        stages: name -> inputs of every stage; those already in `out` must have been made with them.

    Raises:
        RunError: `out` holds something that is no run, or stages that were made with other inputs. Nothing
            is written then.
    """
    logging.disable_progress_bar()  # stages show their own
    check_is_run(out)
    for name, inputs in stages.items():
        check_inputs(out, name, inputs)
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RECIPE, dump(recipe))
    if not (out / MANIFEST).exists():
        write_atomically(out / MANIFEST, json.dumps(_manifest(recipe, facts), indent=1))


def check_is_run(out: Path) -> None:
    """Raise RunError when `out` holds files and no run."""
    if out.is_dir() and any(out.iterdir()) and not any((out / n).exists() for n in (RECIPE, MANIFEST)):
        raise RunError(
            f"out {str(out)!r} already holds files, and they are not a run.",
            "Give a new folder, or the folder of the run that is to go on.",
        )


def require(out: Path, name: str) -> None:
    """Raise RunError unless the stage `name` of the run has finished."""
    if not is_done(out, name):
        raise RunError(
            f"{out}: stage {name} has not finished, and the next one needs it.",
            f"Run `niwaki {name.split('-', 1)[1]}` first, or `niwaki run` for the whole line.",
        )


def _manifest(recipe: Recipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "niwaki": niwaki.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "hardware": hardware(),
        "seed": recipe.seed,
        **facts,
    }
