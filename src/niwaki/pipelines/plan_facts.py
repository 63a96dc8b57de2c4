"""A plan, and the families there are, as plain values for programs: what `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from niwaki.errors import NiwakiError
from niwaki.ground.family import FAMILIES
from niwaki.pipelines.family_plan import plan_family
from niwaki.pipelines.kinds import pipeline_of
from niwaki.pipelines.plan import Plan, plan
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.family import FamilyRecipe
from niwaki.recipe.kinds import Recipe


def plan_facts(recipe: Recipe, *, out: Path, flops_per_s: float | None) -> dict[str, Any]:
    """What `niwaki check --json` prints.

    Always {"kind", "out", "problems": [{"message", "remedy"}]}; of compress recipes also warnings, shapes,
    stages and costs (FLOP, seconds, bytes), of families the same for each member. Of other kinds, `check`
    prints its plan.
    """
    head = {"kind": recipe.kind, "out": str(out)}
    if isinstance(recipe, CompressRecipe):
        return head | _facts(plan(recipe, out=out, flops_per_s=flops_per_s))
    if isinstance(recipe, FamilyRecipe):
        planned = plan_family(recipe, out=out, flops_per_s=flops_per_s)
        members = {
            folder: _facts(member) for folder, member in zip(recipe.folders, planned.members, strict=False)
        }
        return head | {
            "problems": _problems(planned.problems),
            "warnings": list(planned.warnings),
            "members": members,
        }
    problems = pipeline_of(recipe.kind).check(recipe, out=out, flops_per_s=flops_per_s)
    return head | {"problems": _problems(problems)}


def family_facts() -> dict[str, Any]:
    """Every supported family: its axes that can be trimmed, and whether hidden and heads go together."""
    return {
        name: {"axes": list(family.axes), "hidden_and_heads_together": family.hidden_is_heads}
        for name, family in sorted(FAMILIES.items())
    }


def _facts(planned: Plan) -> dict[str, Any]:
    shapes = [planned.teacher, *planned.candidates] if planned.teacher is not None else []
    costs: list[dict[str, Any]] = [asdict(cost) for cost in planned.serving] or [{} for _ in shapes]
    described = [
        {"sizes": dict(shape.sizes), "num_parameters": shape.num_parameters} | cost
        for shape, cost in zip(shapes, costs, strict=False)
    ]
    return {
        "problems": _problems(planned.problems),
        "warnings": list(planned.warnings),
        "teacher": described[0] if described else None,
        "candidates": described[1:],
        "stages": [
            asdict(stage) | {"duration_s": stage.flops / planned.flops_per_s} for stage in planned.stages
        ],
        "flops_per_s": planned.flops_per_s,
        "duration_s": planned.duration_s,
        "written_bytes": planned.written_bytes,
        "streamed_bytes": planned.streamed_bytes,
    }


def _problems(problems: Iterable[NiwakiError]) -> list[dict[str, str]]:
    return [{"message": problem.message, "remedy": problem.remedy} for problem in problems]
