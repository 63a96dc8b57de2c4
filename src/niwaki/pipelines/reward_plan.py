"""What a reward run would do, found by reading its data and no weights; and what came of it, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from niwaki.errors import NiwakiError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.loop import check_divides
from niwaki.pipelines.amounts import measure_flops_per_s
from niwaki.pipelines.plan_table import show_findings
from niwaki.pipelines.reward_inputs import CALIBRATE, RewardInputs
from niwaki.pipelines.reward_train import num_steps
from niwaki.pipelines.spoken import in_words
from niwaki.recipe.reward import STDLIB, RewardRecipe, Training
from niwaki.reward.data import Collected, objectives_of
from niwaki.reward.records import Pair, Rating
from niwaki.reward.tokens import encode_pairs, encode_ratings

_SAMPLE_ROWS = 64


@dataclass
class RewardPlan:
    """Stages with rows, steps and tokens; what to know, and what would stop the run."""

    stages: list[tuple[str, str, str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[NiwakiError] = field(default_factory=list)
    flops_per_s: float = 1.0


def check_recipe(inputs: RewardInputs, *, flops_per_s: float | None) -> RewardPlan:
    """Read the sources, split them, render a sample, and count."""
    plan = RewardPlan()
    plan.flops_per_s = flops_per_s or measure_flops_per_s()
    try:
        check_steps(inputs.recipe)
        _plan(inputs, plan)
    except NiwakiError as error:
        plan.problems.append(error)
    return plan


def check_steps(recipe: RewardRecipe) -> None:
    """Raise TrainingError unless the processes at work can share out the steps of every training."""
    for name, section in (("regression", recipe.regression), ("preference", recipe.preference)):
        if section is not None:
            words = f"{name}.batch_rows is {{}} rows a step, which do"
            check_divides(section.batch_rows, section.micro_rows, words)


def show_plan(plan: RewardPlan) -> None:
    """Print the plan on stdout, notes and problems on stderr."""
    console = Console(highlight=False)
    if plan.stages:
        table = Table()
        for name in ("stage", "rows", "tokens", "time"):
            table.add_column(name, justify="left" if name == "stage" else "right")
        for stage, rows, tokens, flops in plan.stages:
            table.add_row(stage, rows, tokens, in_words(flops / plan.flops_per_s))
        console.print(table)
        total = sum(flops for *_, flops in plan.stages) / plan.flops_per_s
        console.print(f"About {in_words(total)} at {plan.flops_per_s / 1e9:,.0f} GFLOP/s.")
    show_findings(plan.notes, plan.problems)


def show_results(results: Mapping[str, Any], *, out: Path) -> None:
    """Print accuracy of every model on test pairs, and where the product is."""
    console = Console(highlight=False)
    for side, judged in results["sets"].items():
        table = Table(title=f"\n{out}: {side} pairs", title_justify="left")
        for name in ("model", "accuracy", "95 %", "longer chosen", "shorter chosen"):
            table.add_column(name, justify="left" if name == "model" else "right")
        for name, model in judged["models"].items():
            accuracy, lengths = model["accuracy"], model["by_length"]
            table.add_row(
                name + (" (the product)" if name == judged["final"] else ""),
                f"{accuracy['mean']:.1%}",
                f"{accuracy['low']:.1%} to {accuracy['high']:.1%}",
                *(
                    f"{lengths[key]['accuracy']:.1%}" if key in lengths else ""
                    for key in ("chosen longer", "chosen shorter")
                ),
            )
        console.print(table)
    for warning in results["warnings"]:
        Console(stderr=True).print(f"Warning: {warning}", style="yellow", soft_wrap=True)
    model = out / CALIBRATE / "model"
    console.print(f"Model  {model}\nPage   {out / 'report.html'}", soft_wrap=True)


def _plan(inputs: RewardInputs, plan: RewardPlan) -> None:
    recipe, chat = inputs.recipe, inputs.chat
    pairs, ratings = inputs.collect() if not _uses_stdlib(inputs) else _stdlib(inputs)
    plan.notes += [*pairs.warnings, *ratings.warnings, *chat.problems()]
    if chat.is_plain:
        plan.notes.append("the backbone has no chat template; a plain one is used and saved with the model")
    for reason, count in (pairs.summary()["skipped"] | ratings.summary()["skipped"]).items():
        plan.notes.append(f"{count} rows are not used: {reason}")
    shares = {"test": recipe.data.test, "validation": recipe.data.validation}
    sides = pairs.sides(**shares)
    sample, long = encode_pairs(chat, sides["train"][:_SAMPLE_ROWS], max_tokens=recipe.data.max_tokens)
    if long:
        plan.notes.append(
            f"{len(long)} of the first {_SAMPLE_ROWS} pairs are longer than {recipe.data.max_tokens} tokens "
            "and would be left out"
        )
    pair_tokens = sum(len(c.ids) for c in (*sample.chosen, *sample.rejected)) / len(sample)
    rating_tokens, rated = pair_tokens / 2, ratings.sides(**shares)["train"] if ratings.records else []
    if rated:
        shown, _ = encode_ratings(chat, rated[:_SAMPLE_ROWS], (), max_tokens=recipe.data.max_tokens)
        rating_tokens = sum(len(c.ids) for c in shown.conversations) / len(shown)
    size = sum(
        Checkpoint(inputs.backbone).spec(name).num_elements for name in Checkpoint(inputs.backbone).names()
    )
    if recipe.regression is not None:
        names = objectives_of(rated, recipe.regression.objectives)
        _training(plan, f"regress on {', '.join(names)}", recipe.regression, len(rated), rating_tokens, size)
    if recipe.preference is not None:
        label = f"prefer, {recipe.preference.loss} Bradley-Terry"
        _training(plan, label, recipe.preference, len(sides["train"]), pair_tokens, size)
    num_all = sum(map(len, sides.values()))
    if recipe.expo is not None:
        count = len(recipe.expo.grid) * len(sides["validation"])
        plan.stages.append(
            ("extrapolate", f"{count:,} pairs", _tokens(count * pair_tokens), 2 * size * count * pair_tokens)
        )
    if recipe.objectives is not None:
        objectives_of(rated, [n for n in recipe.objectives.names if n != "length"])
        tokens = len(rated) * rating_tokens + num_all * pair_tokens
        plan.stages.append(
            ("features", f"{len(rated) + 2 * num_all:,} answers", _tokens(tokens), 2 * size * tokens)
        )
    count = len(sides["test"]) * len(plan.stages) + len(sides["validation"])
    plan.stages.append(
        (
            "calibrate, evaluate",
            f"{count:,} pairs",
            _tokens(count * pair_tokens),
            2 * size * count * pair_tokens,
        )
    )


def _training(
    plan: RewardPlan, label: str, section: Training, num_rows: int, row_tokens: float, size: int
) -> None:
    steps = num_steps(section, num_rows)
    tokens = steps * section.batch_rows * row_tokens
    plan.stages.append((label, f"{num_rows:,}, {steps:,} steps", _tokens(tokens), 6 * size * tokens))


def _tokens(count: float) -> str:
    return f"{count / 1e6:,.1f}M" if count >= 1e5 else f"{count:,.0f}"


def _uses_stdlib(inputs: RewardInputs) -> bool:
    data = inputs.recipe.data
    return any(s.source == STDLIB for s in (*data.pairs, *data.ratings, *data.test_pairs))


def _stdlib(inputs: RewardInputs) -> tuple[Collected[Pair], Collected[Rating]]:
    """As `collect`, with the made files in a folder that goes away: a plan writes nothing."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        return RewardInputs(inputs.recipe, Path(folder)).collect()
