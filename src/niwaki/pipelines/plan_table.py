"""A plan, and the list of families, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from niwaki.errors import NiwakiError
from niwaki.ground import processes
from niwaki.ground.family import FAMILIES
from niwaki.pipelines.costs import Shape, StageCost
from niwaki.pipelines.plan import Plan
from niwaki.pipelines.spoken import in_bytes, in_milliseconds, in_words

# Not dim and vocab, which no cut changes.
_SHOWN_AXES = ("layer", "hidden", "ffn", "kv", "group", "expert", "effn")


def show(plan: Plan) -> None:
    """Print the plan on stdout, its warnings and problems on stderr."""
    console = Console(highlight=False)
    if plan.teacher is not None:
        console.print(_shapes(plan, plan.teacher))
    if plan.stages:
        console.print(stages_table(plan.stages, plan.flops_per_s))
        console.print(
            f"About {in_words(plan.duration_s)} at {plan.flops_per_s / 1e9:,.0f} GFLOP/s. "
            "Data preparation, saving and tasks come on top."
        )
        if processes.count() > 1:
            console.print(f"Of {processes.count()} processes: memory and time are those of one.")
        console.print(_where(plan), soft_wrap=True)
        console.print(f"Reads  teacher {plan.recipe.teacher}, text {plan.recipe.data.source}", soft_wrap=True)
        console.print(f"Writes {plan.out}/ ({in_bytes(plan.written_bytes)} at most)", soft_wrap=True)
    show_findings(plan.warnings, plan.problems)


def show_findings(warnings: Sequence[str], problems: Sequence[NiwakiError]) -> None:
    """Print what a plan warns of and what would stop it on stderr; on stdout that nothing would."""
    errors = Console(stderr=True, highlight=False)
    for warning in warnings:
        errors.print(Text(f"Note: {warning}", style="yellow"), soft_wrap=True)
    for problem in problems:
        errors.print(Text(problem.message, style="red"), soft_wrap=True)
        errors.print(Text(f"  {problem.remedy}"), soft_wrap=True)
    if not problems:
        Console(highlight=False).print(Text("Nothing stands in the way.", style="green"))


def show_families() -> None:
    """Print every supported family with the axes that can be trimmed."""
    table = Table("family", "axes that can be trimmed", box=None)
    for name, family in sorted(FAMILIES.items()):
        note = " (hidden and heads together)" if family.hidden_is_heads else ""
        table.add_row(name, " ".join(family.axes) + note)
    Console(highlight=False).print(table)


def _where(plan: Plan) -> str:
    if not plan.streamed_bytes:
        return "Scores the teacher in memory"
    return (
        f"Scores the teacher layer by layer: its {in_bytes(plan.streamed_bytes)} of weights do not fit into "
        "memory (trials and distilling load it whole)"
    )


def _shapes(plan: Plan, teacher: Shape) -> Table:
    axes = [axis for axis in _SHOWN_AXES if axis in teacher.sizes]
    has_latency = plan.recipe.choose.device is not None
    costs = ["weights", "kv cache", *(["latency"] if has_latency else [])]
    table = Table("shape", "parameters", "part", *costs, *axes, box=None)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    shapes = [("teacher", teacher)]
    shapes += [(str(number), shape) for number, shape in enumerate(plan.candidates, 1)]
    for (name, shape), cost in zip(shapes, plan.serving, strict=True) if plan.serving else []:
        latency = "at run" if cost.latency_s is None else in_milliseconds(cost.latency_s)
        table.add_row(
            name,
            f"{shape.num_parameters:,}",
            f"{shape.num_parameters / teacher.num_parameters:.0%}",
            in_bytes(cost.weights_bytes),
            in_bytes(cost.kv_cache_bytes),
            *([latency] if has_latency else []),
            *(str(shape.sizes[axis]) for axis in axes),
        )
    return table


def stages_table(stages: Sequence[StageCost], flops_per_s: float) -> Table:
    """What each stage of a plan costs, on a machine of so many FLOP/s."""
    table = Table("stage", "work", "time", "memory", "reads", "writes", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in stages:
        table.add_row(
            stage.name,
            f"{stage.flops:.1e} FLOP" if stage.flops else "",
            in_words(stage.flops / flops_per_s) if stage.flops else "",
            in_bytes(stage.memory_bytes) if stage.memory_bytes else "",
            in_bytes(stage.read_bytes),
            in_bytes(stage.written_bytes) if stage.written_bytes else "",
        )
    return table
