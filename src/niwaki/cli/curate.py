"""The verb of curation: questions, without training on them."""

from __future__ import annotations

from niwaki.cli.app import Out, RecipeOrRun, app
from niwaki.cli.opening import open_recipe
from niwaki.cli.output import AsJson, print_json, tables_aside
from niwaki.errors import RecipeError


@app.command()
def curate(recipe: RecipeOrRun, out: Out = None, as_json: AsJson = False) -> None:
    """Make questions to train on.

    Carries out the `curate` section of a recipe of kind curate or reason: sources, filters, duplicates,
    contamination, templates, difficulty, blend.
    """
    read, run_directory = open_recipe(recipe, out)
    if read.kind not in {"curate", "reason"}:
        raise RecipeError(
            f"{recipe}: a recipe of kind {read.kind} has no section curate.",
            "Start one with `niwaki new curate`.",
        )
    from niwaki.pipelines import curate as pipeline

    with tables_aside(as_json):
        if read.kind == "curate":
            pipeline.run(read, out=run_directory)
        else:
            from niwaki.pipelines import reason

            reason.curate_stage(read, run_directory)
            pipeline.show(run_directory)
    if as_json:
        print_json({"out": run_directory, "results": pipeline.results(run_directory)})
