"""CrossThink's data (arXiv 2504.13941, section 2): sources -> curate -> difficulty -> blend -> report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from niwaki.errors import NiwakiError
from niwaki.ground import processes
from niwaki.ground.run import is_done
from niwaki.pipelines.open_run import begin
from niwaki.pipelines.plan_table import show_findings
from niwaki.pipelines.questions import BLEND, CURATE, Answer, check_section, curate_inputs, make_questions
from niwaki.recipe.curate import CurateRecipe, Difficulty
from niwaki.verify.prompt import THINK_BOXED


@processes.main_only
def run(recipe: CurateRecipe, *, out: Path) -> dict[str, Any]:
    """Make the questions; returns what `curation.json` and `blend.json` hold. A killed run goes on."""
    section = recipe.curate
    check_section(section)
    begin(out, recipe, {}, {CURATE: curate_inputs(section, recipe.seed)})
    make_questions(section, out, seed=recipe.seed, answer=_asker)
    report(out)
    show(out)
    return results(out)


def check(recipe: CurateRecipe, *, out: Path, flops_per_s: float | None) -> Sequence[NiwakiError]:
    """Print which sources there are; returns what would stop the run."""
    problems: list[NiwakiError] = []
    table = Table("set", "form", "from", "use")
    for use, sources in (("train", recipe.curate.sources), ("evaluate", recipe.curate.benchmarks)):
        for source in sources:
            table.add_row(source.name, source.adapter, source.path or "its own place", use)
    Console().print(table)
    try:
        check_section(recipe.curate)
        curate_inputs(recipe.curate, recipe.seed)
    except NiwakiError as error:
        problems.append(error)
    show_findings((), problems)
    return problems


def _asker(section: Difficulty) -> Answer:
    from niwaki.pipelines.difficulty import asker  # loads a model; most recipes have no such section

    return asker(section, prompt=THINK_BOXED)


def report(out: Path) -> None:
    """Write the page about the run, finished or not."""
    from niwaki.reporting.curation_page import write_curation_report

    write_curation_report(out)


def results(out: Path) -> dict[str, Any]:
    """What the stages that are done have counted."""
    files = {"curation": out / CURATE / "curation.json", "blend": out / BLEND / "blend.json"}
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()}


def show(out: Path) -> None:
    """Print the funnel, and where the questions are."""
    found = results(out)
    table = Table("source", "read", "set aside", "dropped", "kept", "in the mixture")
    parts = {part["name"]: part["rows"] for part in found["blend"]["parts"]} if "blend" in found else {}
    for name, counts in found["curation"]["sources"].items():
        dropped, kept = sum(counts["dropped"].values()), sum(counts["kept"].values())
        row = (counts["questions"], counts["aside"], dropped, kept, parts.get(name, 0))
        table.add_row(name, *(f"{number:,}" for number in row))
    console = Console()
    console.print(table)
    if is_done(out, BLEND):
        console.print(f"Questions to train on: {out / BLEND / 'train.jsonl'}", highlight=False)
    if (out / "report.html").exists():
        console.print(f"Report: {out / 'report.html'}", highlight=False)
