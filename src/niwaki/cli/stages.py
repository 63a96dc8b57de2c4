"""The stages of a compress run, one verb each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from niwaki.cli.app import Out, RecipeOrRun, app
from niwaki.cli.opening import open_compress
from niwaki.cli.output import AsJson, print_json, tables_aside
from niwaki.errors import RecipeError


@app.command()
def correct(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 0: fine-tune the teacher on the text first.

    For recipes that ask for it with `correct`.
    """
    read, run_directory = open_compress(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.correct_stage(read, run_directory)


@app.command()
def score(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 1: score every axis of the teacher."""
    read, run_directory = open_compress(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.score_stage(read, run_directory)


@app.command()
def choose(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 2: rank the shapes that fit."""
    read, run_directory = open_compress(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.choose_stage(read, run_directory)


@app.command()
def trim(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 3: cut the teacher to that shape."""
    read, run_directory = open_compress(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.trim_stage(read, run_directory)


@app.command()
def distill(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 4: teach the trimmed model."""
    read, run_directory = open_compress(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.distill_stage(read, run_directory)


@app.command(name="eval")
def evaluate(
    target: Annotated[Path, typer.Argument(help="A recipe, a run directory, or any model folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory; for a model folder, a JSON file to write.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Text for a model folder's held-out loss.")] = None,
    tasks: Annotated[str, typer.Option(help="lm-eval tasks for a model folder, with commas between.")] = "",
    include_path: Annotated[Path | None, typer.Option(help="Folder with lm-eval task files.")] = None,
    as_json: AsJson = False,
) -> None:
    """Stage 5: measure the models.

    TARGET may also be any model folder, measured on text, on tasks, or on both.
    """
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if (target / "config.json").is_file():
        if data is None and not names:
            raise RecipeError(f"{target}: nothing to measure.", "Give --data PATH, --tasks NAME, or both.")
        from niwaki.pipelines.measure import measure

        with tables_aside(as_json):
            measured = measure(target, data=data, tasks=names, include_path=include_path, out=out)
        if as_json:
            print_json(measured)
        return
    if data is not None or names or include_path is not None:
        raise RecipeError(
            f"{target}: not a model folder, and --data, --tasks and --include-path are for one.",
            "For a run, set them in the recipe: data.source, evaluate.tasks, evaluate.include_path.",
        )
    read, run_directory = open_compress(target, out)
    from niwaki.pipelines import compress as pipeline

    with tables_aside(as_json):
        pipeline.evaluate_stage(read, run_directory)
    if as_json:
        print_json(json.loads((run_directory / "5-evaluate" / "results.json").read_text()))
