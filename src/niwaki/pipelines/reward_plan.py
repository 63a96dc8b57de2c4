"""What a reward run would do, found by reading its data and no weights; and what came of it, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from niwaki.errors import DataError, NiwakiError, RecipeError
from niwaki.ground import processes
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.loop import check_divides
from niwaki.pipelines.amounts import measure_flops_per_s
from niwaki.pipelines.plan_table import show_findings
from niwaki.pipelines.reward_inputs import CALIBRATE, JUSTIFY, RewardInputs
from niwaki.pipelines.reward_objectives import check_objectives
from niwaki.pipelines.reward_train import num_steps
from niwaki.pipelines.spoken import in_words
from niwaki.recipe.reward import STDLIB, Justifier, RewardRecipe, Training
from niwaki.reward.data import Collected, objectives_of
from niwaki.reward.justifier import encode_justifications
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
    trainings = {
        "regression": recipe.regression,
        "preference": recipe.preference,
        "justifier": recipe.justifier,
    }
    for name, section in trainings.items():
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


@processes.main_only
def show_notes(notes: Sequence[str]) -> None:
    """Print what is worth knowing of the data on stderr."""
    for note in notes:
        Console(stderr=True, highlight=False).print(Text(f"Note: {note}", style="yellow"), soft_wrap=True)


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
    if results["sets"]:
        console.print(f"Model  {out / CALIBRATE / 'model'}", soft_wrap=True)
    if (justifier := results.get("justifier")) is not None:
        accuracy = justifier["judged"]["accuracy"]
        console.print(
            f"Justifier  {out / JUSTIFY / 'model'}: {accuracy['mean']:.1%} of test pairs in order "
            f"({accuracy['low']:.1%} to {accuracy['high']:.1%}), the same answer in both orders "
            f"{justifier['agrees']:.1%}",
            soft_wrap=True,
        )
    console.print(f"Page   {out / 'report.html'}", soft_wrap=True)


def _plan(inputs: RewardInputs, plan: RewardPlan) -> None:
    recipe, chat = inputs.recipe, inputs.chat
    pairs, ratings = inputs.collect() if not _uses_stdlib(inputs) else _stdlib(inputs)
    check_backbone(inputs)
    inputs.check_benchmarks()
    if recipe.data.max_tokens > inputs.max_tokens:
        plan.notes.append(
            f"the backbone reads {inputs.max_tokens:,} tokens at once: longer conversations are left out, "
            f"though data.max_tokens is {recipe.data.max_tokens:,}"
        )
    plan.notes += [*pairs.warnings, *ratings.warnings, *inputs.template_notes()]
    for reason, count in (pairs.summary()["skipped"] | ratings.summary()["skipped"]).items():
        plan.notes.append(f"{count} rows are not used: {reason}")
    shares = {"test": recipe.data.test, "validation": recipe.data.validation}
    sides = pairs.sides(**shares)
    sample, long = encode_pairs(chat, sides["train"][:_SAMPLE_ROWS], max_tokens=inputs.max_tokens)
    if long:
        plan.notes.append(
            f"{len(long)} of the first {_SAMPLE_ROWS} pairs are longer than {inputs.max_tokens} tokens "
            "and would be left out"
        )
    pair_tokens = sum(len(c.ids) for c in (*sample.chosen, *sample.rejected)) / len(sample)
    rating_tokens, rated = pair_tokens / 2, ratings.sides(**shares)["train"] if ratings.records else []
    if rated:
        shown, _ = encode_ratings(chat, rated[:_SAMPLE_ROWS], (), max_tokens=inputs.max_tokens)
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
        check_objectives(
            recipe.objectives, objectives_of(rated, [n for n in recipe.objectives.names if n != "length"])
        )
        tokens = len(rated) * rating_tokens + num_all * pair_tokens
        plan.stages.append(
            ("features", f"{len(rated) + 2 * num_all:,} answers", _tokens(tokens), 2 * size * tokens)
        )
    if recipe.scores:
        count = len(sides["test"]) * len(plan.stages) + len(sides["validation"])
        plan.stages.append(
            (
                "calibrate, evaluate",
                f"{count:,} pairs",
                _tokens(count * pair_tokens),
                2 * size * count * pair_tokens,
            )
        )
    if recipe.justifier is not None:
        _justifier(inputs, plan, recipe.justifier, sides["train"], size)


def check_backbone(inputs: RewardInputs) -> None:
    """Raise RecipeError when the recipe asks of an encoder what only a causal model has."""
    recipe = inputs.recipe
    asked = [n for n in ("regression", "preference", "justifier") if getattr(recipe, n) is not None]
    asked += ["export.forms"] if recipe.export.forms else []
    if asked and inputs.is_encoder:
        raise RecipeError(
            f"backbone {recipe.backbone!r} is an encoder, or has no stock classifier with a linear head on "
            f"its last token, which {', '.join(asked)} needs.",
            "Give a causal language model, or leave out all but objectives: heads on the mean states.",
        )


def _justifier(
    inputs: RewardInputs, plan: RewardPlan, section: Justifier, train: Sequence[Pair], size: int
) -> None:
    most = min(section.max_tokens, inputs.context_tokens or section.max_tokens)
    shown = train[:_SAMPLE_ROWS]
    kept, skipped = encode_justifications(inputs.chat, shown, max_tokens=most)
    if skipped:
        plan.notes.append(
            f"{len(skipped)} of the first {len(shown)} questions of the justifier are longer than "
            f"{most:,} tokens with both answers and would be left out"
        )
    if not kept:
        raise DataError(
            f"justifier: all of the first {len(shown)} questions are longer than {most:,} tokens.",
            "Raise justifier.max_tokens, or give a model with a longer context.",
        )
    if not any(pair.elaboration for pair in train):
        plan.notes.append(
            "no pair has an elaboration: the justifier learns verdicts, and has no justification to write"
        )
    tokens = sum(len(ids) for ids, _ in kept) / len(kept)
    _training(plan, "justify", section, 2 * len(train) * len(kept) // (2 * len(shown)), tokens, size)


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
