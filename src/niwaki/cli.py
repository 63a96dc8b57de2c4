"""The command line: thin verbs over `niwaki.pipelines`.

Heavy imports stay inside the verbs, so that `niwaki --help` answers at once. Errors that the user can mend
are a message and a remedy on stderr with exit code 2; Ctrl-C is exit code 130. See docs/cli.md.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from niwaki import __version__
from niwaki.errors import NiwakiError, RecipeError

if TYPE_CHECKING:
    from niwaki.pipelines.family_plan import FamilyPlan
    from niwaki.pipelines.plan import Plan
    from niwaki.recipe.compress import CompressRecipe
    from niwaki.recipe.family import FamilyRecipe

EXIT_WRONG_ANSWER = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class _Verbs(TyperGroup):
    """Turns errors that the user can mend, and Ctrl-C, into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; with NIWAKI_TRACEBACK=1 its errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except NiwakiError as error:
            if os.environ.get("NIWAKI_TRACEBACK") == "1":
                raise
            typer.secho(error.message, fg=typer.colors.RED, err=True)
            typer.echo(error.remedy, err=True)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            command = shlex.join(["niwaki", *sys.argv[1:]])
            typer.echo(f"\nStopped. The same command goes on from here: {command}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Shape big open language models into small, fast ones. Start with: niwaki new compress",
)

RecipeOrRun = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file, or a run directory that holds one.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run directory. Default: the recipe's `out`, else runs/NAME-OF-RECIPE."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"niwaki {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(recipe: RecipeOrRun, out: Out = None) -> None:
    """Carry out a recipe from start to end.

    A killed run goes on where it stopped when the same command is given again.
    """
    read, run_directory = _open_any(recipe, out)
    if read.kind == "family":
        from niwaki.pipelines import family

        family.run(read, out=run_directory)
        return
    from niwaki.pipelines import compress as pipeline

    pipeline.run(read, out=run_directory)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="What kind of recipe: compress or family.")],
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
) -> None:
    """Plan a recipe, loading no weights.

    Shows shapes, memory, time, what it reads and writes, and what would go wrong (exit code 2 then).
    """
    read, run_directory = _open_any(recipe, out)
    flops_per_s = gflops * 1e9 if gflops else None
    planned: Plan | FamilyPlan
    if read.kind == "family":
        from niwaki.pipelines.family_plan import plan_family
        from niwaki.pipelines.family_table import show_plan

        planned = plan_family(read, out=run_directory, flops_per_s=flops_per_s)
        show_plan(planned)
    else:
        from niwaki.pipelines.plan import plan
        from niwaki.pipelines.plan_table import show

        planned = plan(read, out=run_directory, flops_per_s=flops_per_s)
        show(planned)
    if planned.problems:
        raise typer.Exit(EXIT_USER_ERROR)


@app.command()
def compress(
    model: Annotated[str, typer.Argument(help="Teacher: a model folder, a hub name, or `sapling`.")],
    to: Annotated[str, typer.Option(help="Size of the student: 50%, 4B (parameters) or 8GB.")],
    tokens: Annotated[str, typer.Option(help="Tokens to distill on, such as 100M.")],
    data: Annotated[str, typer.Option(help="Text: a file or folder, a hub dataset name, or stdlib.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory. Default: runs/MODEL-SIZE.")
    ] = None,
) -> None:
    """Compress a model without writing a recipe.

    The recipe that was used is kept in the run directory.
    """
    from niwaki.pipelines import compress as pipeline
    from niwaki.pipelines.quick import recipe_for

    recipe = recipe_for(model, to=to, tokens=tokens, data=data)
    name = Path(model).name or "model"
    pipeline.run(
        recipe, out=out or Path("runs") / f"{name}-{to.strip().replace('%', 'pct').replace(' ', '')}"
    )


@app.command()
def correct(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 0: fine-tune the teacher on the text first.

    For recipes that ask for it with `correct`.
    """
    read, run_directory = _open(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.correct_stage(read, run_directory)


@app.command()
def score(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 1: score every axis of the teacher."""
    read, run_directory = _open(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.score_stage(read, run_directory)


@app.command()
def choose(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 2: rank the shapes that fit."""
    read, run_directory = _open(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.choose_stage(read, run_directory)


@app.command()
def trim(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 3: cut the teacher to that shape."""
    read, run_directory = _open(recipe, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.trim_stage(read, run_directory)


@app.command()
def distill(recipe: RecipeOrRun, out: Out = None) -> None:
    """Stage 4: teach the trimmed model."""
    read, run_directory = _open(recipe, out)
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
) -> None:
    """Stage 5: measure the models.

    TARGET may also be any model folder, measured on text, on tasks, or on both.
    """
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if (target / "config.json").is_file():
        if data is None and not names:
            raise RecipeError(f"{target}: nothing to measure.", "Give --data PATH, --tasks NAME, or both.")
        from niwaki.pipelines.measure import measure

        measure(target, data=data, tasks=names, include_path=include_path, out=out)
        return
    if data is not None or names or include_path is not None:
        raise RecipeError(
            f"{target}: not a model folder, and --data, --tasks and --include-path are for one.",
            "For a run, set them in the recipe: data.source, evaluate.tasks, evaluate.include_path.",
        )
    read, run_directory = _open(target, out)
    from niwaki.pipelines import compress as pipeline

    pipeline.evaluate_stage(read, run_directory)


@app.command()
def report(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
) -> None:
    """Stage 6: write report.html.

    It is made from what the run directory holds, finished or not. Of a family, all pages are written.
    """
    from niwaki.recipe.kinds import kind_of
    from niwaki.recipe.load import read_text

    recipe = run_directory / "recipe.yaml"
    if recipe.is_file() and kind_of(read_text(recipe)) == "family":
        from niwaki.pipelines import family

        family.report(run_directory)
        return
    from niwaki.pipelines import compress as pipeline

    pipeline.report_stage(run_directory)


@app.command()
def families() -> None:
    """List the supported model families.

    Each with the axes that can be trimmed.
    """
    from niwaki.pipelines.plan_table import show_families

    show_families()


@app.command()
def verify(
    answer: Annotated[str, typer.Argument(help="What a model wrote; - reads it from standard input.")],
    gold: Annotated[str, typer.Argument(help="The right answer.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--type", help="mc, number, expression, set, text or exact. Default: inferred from GOLD."
        ),
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="Options of a multiple-choice question, as a JSON list or object.")
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds until the verdict is `timeout`.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Grade an answer against the right one.

    Exit code 0: right. 1: wrong. 2: the command cannot be used like this. See docs/verify.md. An answer that
    begins with a minus goes after `--`.
    """
    from niwaki.verify.check import check as grade
    from niwaki.verify.choice import options_from_json

    verdict = grade(
        sys.stdin.read() if answer == "-" else answer,
        gold,
        type=kind,
        options=options_from_json(options) if options is not None else None,
        limit_s=limit,
    )
    if as_json:
        typer.echo(json.dumps(asdict(verdict), ensure_ascii=False))
    else:
        typer.echo(f"{'right' if verdict.correct else 'wrong'}: {verdict.reason.value}")
        typer.echo(f"type: {verdict.type.value}")
        typer.echo(f"graded: {'nothing' if verdict.extracted is None else verdict.extracted}")
    raise typer.Exit(0 if verdict.correct else EXIT_WRONG_ANSWER)


def _open(path: Path, out: Path | None) -> tuple[CompressRecipe, Path]:
    """As `_open_any`, for the stages of a compress run."""
    recipe, run_directory = _open_any(path, out)
    if recipe.kind == "family":
        raise RecipeError(
            f"{path}: a family has no stages; its members have.",
            f"Give the run directory of a member, such as {run_directory / recipe.folders[0]}.",
        )
    return recipe, run_directory


def _open_any(path: Path, out: Path | None) -> tuple[CompressRecipe | FamilyRecipe, Path]:
    """The recipe at `path`, or in the run directory `path`, and the run directory to work in."""
    from niwaki.recipe.kinds import load_recipe

    if path.is_dir():
        return load_recipe(path / "recipe.yaml"), out or path
    recipe = load_recipe(path)
    return recipe, out or Path(recipe.out or Path("runs") / path.stem)


def main() -> None:
    """Entry point of the `niwaki` command."""
    app()


if __name__ == "__main__":
    main()
