"""Verbs for recipes and runs of every kind: run, new, check, report; and compress, without a recipe."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from niwaki.cli.app import EXIT_USER_ERROR, Out, RecipeOrRun, app
from niwaki.cli.opening import open_recipe
from niwaki.cli.output import AsJson, print_json, tables_aside
from niwaki.errors import RecipeError


@app.command()
def run(recipe: RecipeOrRun, out: Out = None, as_json: AsJson = False) -> None:
    """Carry out a recipe from start to end.

    A killed run goes on where it stopped when the same command is given again.
    """
    from niwaki.pipelines.kinds import pipeline_of

    read, run_directory = open_recipe(recipe, out)
    with tables_aside(as_json):
        results = pipeline_of(read.kind).run(read, out=run_directory)
    if as_json:
        print_json({"out": run_directory, "results": results})


def _kinds() -> list[str]:
    from niwaki.recipe.kinds import KINDS

    return list(KINDS)


@app.command()
def new(
    kind: Annotated[
        str, typer.Argument(help="What kind of recipe: compress, family, sparsify ...", autocompletion=_kinds)
    ],
    file: Annotated[Path | None, typer.Argument(help="File to write. Default: KIND.yaml.")] = None,
) -> None:
    """Write a commented recipe to edit.

    It is yours from then on. A file that is already there is never overwritten.
    """
    from niwaki.recipe.kinds import starter
    from niwaki.recipe.write import commented

    begun = starter(kind)
    file = file or Path(f"{kind}.yaml")
    try:
        with file.open("x", encoding="utf-8") as writable:
            writable.write(commented(begun))
    except FileExistsError:
        raise RecipeError(f"{file} is already there.", "Give another name, or remove it first.") from None
    except OSError as error:
        raise RecipeError(f"{file} cannot be written: {error.strerror}.", "Give another path.") from None
    typer.echo(f"Wrote {file}. Next: niwaki check {shlex.quote(str(file))}")


@app.command()
def check(
    recipe: RecipeOrRun,
    out: Out = None,
    gflops: Annotated[
        float | None,
        typer.Option(min=0, help="Sustained GFLOP/s to estimate time with. Default: measured here, briefly."),
    ] = None,
    num_processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Plan for so many. Default: those of the launcher."),
    ] = None,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="Plan for weights that --processes share (FSDP2).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Plan a recipe, loading no weights.

    Shows shapes, memory, time, what it reads and writes, and what would go wrong (exit code 2 then).
    """
    from niwaki.pipelines.kinds import pipeline_of

    if sharded and num_processes is None:
        raise RecipeError("--sharded says how --processes share.", "Give their number too.")
    read, run_directory = open_recipe(recipe, out)
    flops_per_s = gflops * 1e9 if gflops else None
    with _supposing(num_processes, sharded):
        if as_json:
            from niwaki.pipelines.plan_facts import plan_facts

            with tables_aside(True):
                planned = plan_facts(read, out=run_directory, flops_per_s=flops_per_s)
            print_json(planned)
            problems = planned["problems"]
        else:
            problems = pipeline_of(read.kind).check(read, out=run_directory, flops_per_s=flops_per_s)
    if problems:
        raise typer.Exit(EXIT_USER_ERROR)


def _supposing(num_processes: int | None, sharded: bool) -> AbstractContextManager[None]:
    if num_processes is None:
        return nullcontext()
    from niwaki.ground.processes import supposing

    return supposing(num_processes, is_sharded=sharded)


@app.command()
def compress(
    model: Annotated[str, typer.Argument(help="Teacher: a model folder, a hub name, or `sapling`.")],
    to: Annotated[str, typer.Option(help="Size of the student: 50%, 4B (parameters) or 8GB.")],
    tokens: Annotated[str, typer.Option(help="Tokens to distill on, such as 100M.")],
    data: Annotated[str, typer.Option(help="Text: a file or folder, a hub dataset name, or stdlib.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory. Default: runs/MODEL-SIZE.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compress a model without writing a recipe.

    The recipe that was used is kept in the run directory.
    """
    from niwaki.pipelines import compress as pipeline
    from niwaki.pipelines.quick import recipe_for

    recipe = recipe_for(model, to=to, tokens=tokens, data=data)
    name = Path(model).name or "model"
    out = out or Path("runs") / f"{name}-{to.strip().replace('%', 'pct').replace(' ', '')}"
    with tables_aside(as_json):
        results = pipeline.run(recipe, out=out)
    if as_json:
        print_json({"out": out, "results": results})


@app.command()
def report(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    as_json: AsJson = False,
) -> None:
    """Write report.html.

    It is made from what the run directory holds, finished or not. Of a family, all pages are written.
    """
    from niwaki.pipelines.kinds import pipeline_of
    from niwaki.recipe.kinds import kind_of
    from niwaki.recipe.load import read_text

    recipe = run_directory / "recipe.yaml"
    kind = kind_of(read_text(recipe)) if recipe.is_file() else "compress"
    with tables_aside(as_json):
        pipeline_of(str(kind)).report(run_directory)
    page = run_directory / "report.html"
    if as_json:
        print_json({"report": page})
    else:
        typer.echo(f"report: {page}")


@app.command()
def families(as_json: AsJson = False) -> None:
    """List the supported model families.

    Each with the axes that can be trimmed.
    """
    if as_json:
        from niwaki.pipelines.plan_facts import family_facts

        print_json(family_facts())
        return
    from niwaki.pipelines.plan_table import show_families

    show_families()
