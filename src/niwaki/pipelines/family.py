"""A family of models out of one teacher, in steps (arXiv 2407.14679, Table 11: 15B -> 8B -> 4B).

Each member is an ordinary compress run inside the family's directory, cut from the member before (or from
the teacher) and taught by the teacher (or by the member before). At the end they are laid side by side, with
what they cost and what training each from scratch would have cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from niwaki.errors import NiwakiError
from niwaki.evaluation.speed import measure_speed
from niwaki.ground import processes
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.run import check_inputs, write_atomically
from niwaki.pipelines import compress
from niwaki.pipelines.compare import NEW_TOKENS, PROMPT_TOKENS
from niwaki.pipelines.family_account import account
from niwaki.pipelines.family_plan import plan_family, size_from
from niwaki.pipelines.family_table import show_plan, show_results
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.open_run import MANIFEST, begin
from niwaki.pipelines.plan import own_shape, read_config
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.family import FamilyRecipe
from niwaki.reporting.family_page import FAMILY, write_family_report

SPEED = "speed.json"


def run(recipe: FamilyRecipe, *, out: Path) -> dict[str, Any]:
    """Make every member; returns what `family.json` holds. A killed run goes on where it stopped."""
    plan_family(recipe, out=out, flops_per_s=1.0).raise_problems()
    singles = member_recipes(recipe, out)
    _begin(recipe, singles, out)
    for folder, single in zip(recipe.folders, singles, strict=True):
        compress.run(single, out=out / folder)
    return _lay_side_by_side(recipe, singles, out)


@processes.main_only
def _begin(recipe: FamilyRecipe, singles: list[CompressRecipe], out: Path) -> None:
    _check_begun(recipe, singles, out)
    begin(out, recipe, Inputs(singles[0]).facts(), {})


@processes.main_only
def _lay_side_by_side(recipe: FamilyRecipe, singles: list[CompressRecipe], out: Path) -> dict[str, Any]:
    speeds = _speeds(recipe, Inputs(singles[0]), out) if recipe.evaluate.speed else {}
    result = account(recipe, singles, out, speeds=speeds)
    write_atomically(out / FAMILY, json.dumps(result, indent=1))
    report(out)
    show_results(result, out=out)
    return result


def check(recipe: FamilyRecipe, *, out: Path, flops_per_s: float | None) -> Sequence[NiwakiError]:
    """Print the plan; returns its problems."""
    planned = plan_family(recipe, out=out, flops_per_s=flops_per_s)
    show_plan(planned)
    return planned.problems


def report(out: Path) -> None:
    """Write the page about the family, and that of each member again."""
    for folder in sorted(out.glob("*/" + MANIFEST)):
        compress.report(folder.parent)
    write_family_report(out)


def member_recipes(recipe: FamilyRecipe, out: Path) -> list[CompressRecipe]:
    """The compress recipe of each member, in order."""
    teacher = own_shape(read_config(recipe.teacher))
    made = [str(out / folder / compress.DISTILL / "model") for folder in recipe.folders]
    recipes = []
    for index, member in enumerate(recipe.members):
        previous = made[index - 1] if index else recipe.teacher
        cut = previous if member.cut_from == "previous" else recipe.teacher
        taught_by = previous if member.learn_from == "previous" else recipe.teacher
        recipes.append(
            recipe.compress_recipe(
                index,
                to=size_from(recipe, index, teacher.num_parameters),
                teacher=cut,
                distill_teacher=None if taught_by == cut else taught_by,
            )
        )
    return recipes


def _check_begun(recipe: FamilyRecipe, singles: list[CompressRecipe], out: Path) -> None:
    """Refuse a changed recipe before its file is written over: members that were begun must be the same."""
    for folder, single in zip(recipe.folders, singles, strict=True):
        if (out / folder / MANIFEST).exists():
            for name, inputs in compress.stage_inputs(single, Inputs(single)).items():
                check_inputs(out / folder, name, inputs)


def _speeds(recipe: FamilyRecipe, inputs: Inputs, out: Path) -> dict[str, Any]:
    """All models in the same minutes: what the members' own runs measured was on another day.

    Kept in `speed.json`, and measured again when the models are others.
    """
    folders = {name: out / name / compress.DISTILL / "model" for name in recipe.folders}
    models = {"teacher": inputs.teacher_folder, **folders}
    prints = {name: Checkpoint(path).fingerprint() for name, path in models.items()}
    if (out / SPEED).exists():
        kept: dict[str, Any] = json.loads((out / SPEED).read_text())
        if kept["models"] == prints:
            return dict(kept["speeds"])
    loaded = {name: inputs.load(path) for name, path in models.items()}
    measured = measure_speed(loaded, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
    speeds = {name: asdict(speed) for name, speed in measured.items()}
    write_atomically(out / SPEED, json.dumps({"models": prints, "speeds": speeds}, indent=1))
    return speeds
