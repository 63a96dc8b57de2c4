"""From ratings and preferences to a reward model, in order (arXiv 2410.01257 and 2406.12845).

data -> regress -> prefer -> extrapolate -> features -> objectives -> calibrate -> evaluate -> justify, report

Stages that the recipe has no section for are left out. Every model in between is a stock sequence
classifier; the product is `7-calibrate/model`. The justifier is a stock language model beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from niwaki.errors import NiwakiError
from niwaki.ground import processes
from niwaki.ground.run import input_hash, stage
from niwaki.pipelines.open_run import begin
from niwaki.pipelines.product import write_product_card
from niwaki.pipelines.reward_inputs import (
    CALIBRATE,
    DATA,
    EVALUATE,
    EXTRAPOLATE,
    FEATURES,
    JUSTIFY,
    OBJECTIVES,
    PREFER,
    REGRESS,
    RewardInputs,
    write_data,
)
from niwaki.pipelines.reward_judge import calibrate, judge
from niwaki.pipelines.reward_justify import justify
from niwaki.pipelines.reward_objectives import features, learn_objectives
from niwaki.pipelines.reward_plan import (
    check_backbone,
    check_recipe,
    check_steps,
    show_notes,
    show_plan,
    show_results,
)
from niwaki.pipelines.reward_train import extrapolate, prefer, regress
from niwaki.pipelines.trained import once
from niwaki.recipe.reward import RewardRecipe
from niwaki.reporting.reward_page import write_reward_report

Work = Callable[[RewardInputs, Path], None]
STAGES: dict[str, tuple[Work, tuple[str, ...]]] = {
    DATA: (write_data, ("data", "seed")),
    REGRESS: (regress, ("regression", "lora")),
    PREFER: (prefer, ("preference", "lora")),
    EXTRAPOLATE: (extrapolate, ("expo",)),
    FEATURES: (features, ("objectives",)),
    OBJECTIVES: (learn_objectives, ("objectives",)),
    CALIBRATE: (calibrate, ("export",)),
    EVALUATE: (judge, ("evaluate",)),
    JUSTIFY: (justify, ("justifier", "lora")),
}
# What the main process does while the others wait.
_ALONE = (DATA, OBJECTIVES)
_TRAIN = (REGRESS, PREFER)
_NEEDS: dict[str, Callable[[RewardRecipe], object]] = {
    REGRESS: lambda recipe: recipe.regression,
    PREFER: lambda recipe: recipe.preference,
    EXTRAPOLATE: lambda recipe: recipe.expo,
    FEATURES: lambda recipe: recipe.objectives,
    OBJECTIVES: lambda recipe: recipe.objectives,
    CALIBRATE: lambda recipe: recipe.scores or None,
    EVALUATE: lambda recipe: recipe.scores or None,
    JUSTIFY: lambda recipe: recipe.justifier,
}


def run(recipe: RewardRecipe, *, out: Path) -> dict[str, Any]:
    """The whole line; returns what `8-evaluate/results.json` holds, and under `justifier` `9-justify`'s.

    A killed run goes on where it stopped.
    """
    inputs = RewardInputs(recipe, out)
    check_steps(recipe)
    check_backbone(inputs)
    inputs.check_benchmarks()
    depends = _begin(inputs)
    for name, values in depends.items():
        do = partial(STAGES[name][0], inputs)
        stage(out, name, values, once(do) if name in _TRAIN else do, together=name not in _ALONE)
        if name == DATA:
            show_notes(inputs.data["warnings"])
    report(out)
    results: dict[str, Any] = {"sets": {}, "warnings": []}
    if EVALUATE in depends:
        results = json.loads((out / EVALUATE / "results.json").read_text())
    if JUSTIFY in depends:
        results["justifier"] = json.loads((out / JUSTIFY / "results.json").read_text())
    show_results(results, out=out)
    return results


def check(recipe: RewardRecipe, *, out: Path, flops_per_s: float | None) -> Sequence[NiwakiError]:
    """Read the data, count steps, and find what would stop the run; no weights are loaded."""
    plan = check_recipe(RewardInputs(recipe, out), flops_per_s=flops_per_s)
    show_plan(plan)
    return plan.problems


@processes.main_only
def report(out: Path) -> None:
    """Write the page about the run, finished or not."""
    write_product_card(out, "reward")
    write_reward_report(out)


@processes.main_only
def _begin(inputs: RewardInputs) -> dict[str, dict[str, Any]]:
    depends = stage_inputs(inputs)
    begin(inputs.out, inputs.recipe, inputs.facts(), depends)
    return depends


def stage_inputs(inputs: RewardInputs) -> dict[str, dict[str, Any]]:
    """The stages of this recipe, and what each depends on: its sections, and the stages before."""
    resolved = inputs.recipe.model_dump(mode="json")
    depends: dict[str, dict[str, Any]] = {}
    before = inputs.facts()
    for name, (_, sections) in STAGES.items():
        if name in _NEEDS and _NEEDS[name](inputs.recipe) is None:
            continue
        values = {section: resolved[section] for section in sections}
        depends[name] = values | {"earlier stages": input_hash(before)}
        if name == DATA:
            depends[name] |= inputs.facts()
        if name == EVALUATE:
            depends[name]["benchmarks"] = inputs.benchmarks()
        before = depends[name]
    return depends
