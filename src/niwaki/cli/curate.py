"""The verb of curation: questions, without training on them."""

from __future__ import annotations

from niwaki.cli.app import Out, RecipeOrRun, app
from niwaki.cli.opening import open_recipe
from niwaki.errors import RecipeError


@app.command()
def curate(recipe: RecipeOrRun, out: Out = None) -> None:
    """Make questions to train on.

    Carries out the `curate` section of a recipe of kind curate or reason: sources, filters, duplicates,
    contamination, templates, difficulty, blend.
    """
    read, run_directory = open_recipe(recipe, out)
    if read.kind == "curate":
        from niwaki.pipelines import curate as pipeline

        pipeline.run(read, out=run_directory)
    elif read.kind == "reason":
        from niwaki.pipelines import curate as pipeline
        from niwaki.pipelines import reason

        reason.curate_stage(read, run_directory)
        pipeline.show(run_directory)
    else:
        raise RecipeError(
            f"{recipe}: a recipe of kind {read.kind} has no section curate.",
            "Start one with `niwaki new curate`.",
        )
