"""The plan of a family, and what came of it, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from niwaki.pipelines.costs import family_saving, scratch_flops
from niwaki.pipelines.family_plan import MAKING, FamilyPlan
from niwaki.pipelines.plan_table import show_findings
from niwaki.pipelines.results_table import task_score
from niwaki.pipelines.spoken import in_bytes, in_words
from niwaki.reporting.family_page import FAMILY
from niwaki.reporting.words import quantity


def show_plan(plan: FamilyPlan) -> None:
    """Print the plan on stdout, its warnings and problems on stderr."""
    console = Console(highlight=False)
    if plan.members:
        console.print(_members(plan))
        duration_s = sum(member.duration_s for member in plan.members)
        written_bytes = sum(member.written_bytes for member in plan.members)
        console.print(
            f"About {in_words(duration_s)} at {plan.members[0].flops_per_s / 1e9:,.0f} GFLOP/s. "
            "Each shape is the largest of its candidates."
        )
        console.print(f"Reads  teacher {plan.recipe.teacher}, text {plan.recipe.data.source}", soft_wrap=True)
        console.print(f"Writes {plan.out}/ ({in_bytes(written_bytes)} at most)", soft_wrap=True)
        console.print(_saving(plan), soft_wrap=True)
    show_findings(plan.warnings, plan.problems)


def show_results(family: Mapping[str, Any], *, out: Path) -> None:
    """Print size, loss, tasks, speed and cost of each model, and where the rest is; from `family.json`."""
    teacher, members = family["teacher"], family["members"]
    tasks = sorted({task for model in (teacher, *members) for task in model["tasks"]})
    has_speed, has_scratch = teacher["speed"] is not None, family["scratch_tokens"] is not None
    table = Table(title=f"\n{out}", title_justify="left")
    table.add_column("model")
    columns = ["parameters", "held-out loss", *tasks, *(["tokens/s"] if has_speed else []), "tokens", "FLOPs"]
    for name in [*columns, *(["of scratch"] if has_scratch else [])]:
        table.add_column(name, justify="right")
    for model in (teacher, *members):
        loss = model["held_out_loss"]
        row = [model["name"], f"{model['num_parameters']:,}"]
        row.append(f"{loss['mean']:.3f} ± {(loss['high'] - loss['low']) / 2:.3f}")
        row += [task_score(model["tasks"][task]) for task in tasks]
        if has_speed:
            row.append(f"{model['speed']['decode_tokens_per_s']:,.0f}")
        row += [f"{model['tokens']:,}", f"{model['flops']['total']:.2e}"] if "flops" in model else ["", ""]
        if has_scratch:
            row.append(f"{model['share_of_scratch']:.1%}" if "flops" in model else "")
        table.add_row(*row)
    console = Console()
    console.print(table)
    if has_scratch:
        console.print(_saved(family["scratch_tokens"], family["saving"]), highlight=False, soft_wrap=True)
    console.print(f"report: {out / 'report.html'}\nfigures: {out / FAMILY}", highlight=False, soft_wrap=True)


def _members(plan: FamilyPlan) -> Table:
    table = Table("member", "cut from", "taught by", box=None)
    for column in table.columns:
        column.no_wrap = True
    for name in ("shapes", "parameters", "tokens", "FLOP", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, (folder, member) in enumerate(zip(plan.recipe.folders, plan.members, strict=False)):
        said = plan.recipe.members[index]
        largest = max((shape.num_parameters for shape in member.candidates), default=0)
        flops = making_flops(plan, index)
        table.add_row(
            folder,
            "teacher" if index == 0 else said.cut_from,
            "teacher" if index == 0 else said.learn_from,
            str(len(member.candidates)),
            quantity(largest),
            quantity(member.recipe.distill.tokens),
            f"{flops:.1e}",
            in_words(flops / member.flops_per_s),
        )
    return table


def making_flops(plan: FamilyPlan, index: int) -> float:
    """Estimated FLOPs of making a member: everything but measuring it."""
    return sum(stage.flops for stage in plan.members[index].stages if stage.name in MAKING)


def _saving(plan: FamilyPlan) -> str:
    tokens = plan.recipe.scratch_tokens
    if tokens is None or plan.teacher is None or any(not member.candidates for member in plan.members):
        return "Give `scratch_tokens` to see the saving against training each model from scratch."
    length = plan.recipe.data.sequence_length_tokens
    largest = [max(m.candidates, key=lambda shape: shape.num_parameters) for m in plan.members]
    saving = family_saving(
        scratch_flops(plan.teacher, tokens, length),
        [scratch_flops(shape, tokens, length) for shape in largest],
        [making_flops(plan, index) for index in range(len(plan.members))],
    )
    return _saved(tokens, saving)


def _saved(scratch_tokens: int, saving: float) -> str:
    return (
        f"With the teacher, {saving:.2f} times cheaper than training each model from scratch on "
        f"{scratch_tokens:,} tokens."
    )
