"""The stages of a reason run, and asking any model questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwaki.cli.app import Out, RecipeOrRun, app
from niwaki.cli.opening import open_recipe
from niwaki.cli.output import AsJson, print_json, tables_aside
from niwaki.errors import RecipeError

if TYPE_CHECKING:
    from niwaki.recipe.reason import ReasonRecipe


@app.command(name="warm-up")
def warm_up(recipe: RecipeOrRun, out: Out = None) -> None:
    """Fine-tune on worked solutions.

    Of a reason recipe with a section `warm_up`, after its questions are made.
    """
    read, run_directory = _open(recipe, out)
    if read.warm_up is None:
        raise RecipeError(f"{recipe}: asks for no warm-up.", "Add a section warm_up.")
    from niwaki.pipelines import reason as pipeline

    pipeline.warm_up_stage(read, run_directory)


@app.command()
def rl(recipe: RecipeOrRun, out: Out = None) -> None:
    """Train with GRPO on rewards for right answers.

    Of a reason recipe, after its questions are made and its model is warmed up.
    """
    read, run_directory = _open(recipe, out)
    from niwaki.pipelines import reason as pipeline

    pipeline.rl_stage(read, run_directory)


@app.command()
def answer(
    model: Annotated[str, typer.Argument(help="A model folder or a hub name.")],
    questions: Annotated[
        list[Path], typer.Argument(help="JSON-lines files of questions; see docs/reason.md.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for samples.jsonl and results.json.")],
    samples: Annotated[int, typer.Option(min=1, help="Answers of each seed to each question.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of sampling.")] = 3,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest answer.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Where an answer is cut; it is wrong then.")] = 2048,
    prompt: Annotated[str, typer.Option(help="Wording: think-boxed-1 or bare-1.")] = "think-boxed-1",
    batch_rows: Annotated[int, typer.Option(min=1, help="Answers written side by side.")] = 32,
    as_json: AsJson = False,
) -> None:
    """Ask a model questions: accuracy, pass@k, majority, tokens.

    A killed command goes on where it stopped.
    """
    from niwaki.pipelines.answering import ask

    with tables_aside(as_json):
        results = ask(
            model,
            questions,
            out=out,
            num_samples=samples,
            num_seeds=seeds,
            temperature=temperature,
            max_new_tokens=max_tokens,
            prompt=prompt,
            batch_rows=batch_rows,
        )
    if as_json:
        print_json(results)


def _open(path: Path, out: Path | None) -> tuple[ReasonRecipe, Path]:
    """As `open_recipe`. Raises RecipeError for a recipe of another kind."""
    recipe, run_directory = open_recipe(path, out)
    if recipe.kind != "reason":
        raise RecipeError(
            f"{path}: this is a stage of a reason run, and the recipe is of kind {recipe.kind}.",
            "Start one with `niwaki new reason`.",
        )
    return recipe, run_directory
