"""The plan and the results of a sparsify run, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from niwaki.pipelines.plan_table import show_findings, stages_table
from niwaki.pipelines.results_table import task_score
from niwaki.pipelines.sparsify_plan import SparsifyPlan
from niwaki.pipelines.spoken import in_bytes, in_words

NAMES = {
    "dense": "dense",
    "magnitude": "magnitude",
    "wanda": "Wanda",
    "sparsegpt": "SparseGPT, mask only",
    "sparsegpt_update": "SparseGPT, weights updated",
    "prior": "the mask learning began from",
    "sparse": "this run",
}


def show_plan(plan: SparsifyPlan) -> None:
    """Print the plan on stdout, its warnings and problems on stderr."""
    console = Console(highlight=False)
    if plan.model is not None and plan.shapes:
        console.print(
            f"{plan.pattern} on {len(plan.shapes)} tensors with {plan.num_masked:,} of "
            f"{plan.model.num_parameters:,} weights; a mask of {in_bytes(plan.mask_bytes)}"
        )
        show_memory(plan)
    if plan.stages:
        console.print(stages_table(plan.stages, plan.flops_per_s))
        console.print(
            f"About {in_words(plan.duration_s)} at {plan.flops_per_s / 1e9:,.0f} GFLOP/s. "
            "Data preparation, saving and tasks come on top."
        )
        console.print(f"Reads  model {plan.recipe.model}, text {plan.recipe.data.source}", soft_wrap=True)
        console.print(f"Writes {plan.out}/", soft_wrap=True)
    show_findings(plan.warnings, plan.problems)


def show_memory(plan: SparsifyPlan) -> None:
    """One line: what learning needs at once, of what is allowed."""
    memory = plan.memory
    if memory is None:
        return
    Console(highlight=False).print(
        f"Learning needs about {in_bytes(memory.total)} of memory: weights {in_bytes(memory.weights)}, "
        f"logits and optimiser {in_bytes(memory.gates)}, sampled masks {in_bytes(memory.samples)}, "
        f"activations {in_bytes(memory.activations)}; allowed: {in_bytes(plan.allowed_bytes)}",
        soft_wrap=True,
    )


def show_results(results: Mapping[str, Any], *, out: Path, mask: Path) -> None:
    """Print the loss of every way to the same sparsity, and where the result is."""
    models: Mapping[str, Mapping[str, Any]] = results["models"]
    tasks = sorted({task for result in models.values() for task in result["tasks"]})
    table = Table(title=f"\n{out}: {results['mask']['pattern']}", title_justify="left")
    table.add_column("masks")
    for name in ("held-out loss", "KL to dense", *tasks):
        table.add_column(name, justify="right")
    for name, result in models.items():
        loss, kl = result["held_out_loss"], result["kl_to_dense"]
        half = (loss["high"] - loss["low"]) / 2
        row = [NAMES[name], f"{loss['mean']:.4f} ± {half:.4f}", "" if kl is None else f"{kl['mean']:.4f}"]
        row += [task_score(result["tasks"][task]) if task in result["tasks"] else "" for task in tasks]
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(
        f"report: {out / 'report.html'}\nmask:   {mask} ({results['mask']['bits_per_weight']:.3f} bit per "
        f"weight)\nmodel:  {out / '3-apply' / 'model'}",
        highlight=False,
        soft_wrap=True,
    )
