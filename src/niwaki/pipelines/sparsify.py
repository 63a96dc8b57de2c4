"""MaskLLM, from a dense model to one with N of every M weights, in order (arXiv 2409.17481).

prior -> learn -> apply -> evaluate -> report

The weights never train; which of them survive does. Each stage reads folders and writes one, `stage` skips it
when it is done, and the result is a stock Hugging Face folder with zeros, and a mask of 0.67 bit per weight.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from niwaki.errors import NiwakiError
from niwaki.ground import processes
from niwaki.ground.run import input_hash, stage
from niwaki.masks.apply import apply_mask
from niwaki.masks.file import MaskFile
from niwaki.pipelines.open_run import begin, require
from niwaki.pipelines.product import write_product_card
from niwaki.pipelines.sparsify_compare import compare
from niwaki.pipelines.sparsify_inputs import APPLY, EVALUATE, LEARN, PRIOR, SparsifyInputs, mask_of
from niwaki.pipelines.sparsify_learn import learn, write_record
from niwaki.pipelines.sparsify_plan import plan
from niwaki.pipelines.sparsify_prior import make_prior
from niwaki.pipelines.sparsify_tables import show_memory, show_plan, show_results
from niwaki.pipelines.trained import discard_snapshots
from niwaki.recipe.sparsify import SparsifyRecipe
from niwaki.reporting.sparsify_page import write_sparsify_report


def run(recipe: SparsifyRecipe, *, out: Path) -> dict[str, Any]:
    """The whole line; returns what `4-evaluate/results.json` holds. A killed run goes on where it stopped."""
    planned = plan(recipe, out=out, flops_per_s=1.0)
    planned.raise_problems()
    show_memory(planned)
    prior_stage(recipe, out)
    if recipe.learn is not None:
        learn_stage(recipe, out)
    apply_stage(recipe, out)
    evaluate_stage(recipe, out)
    report(out)
    results: dict[str, Any] = json.loads((out / EVALUATE / "results.json").read_text())
    show_results(results, out=out, mask=mask_of(out))
    return results


def check(recipe: SparsifyRecipe, *, out: Path, flops_per_s: float | None) -> Sequence[NiwakiError]:
    """Print the plan; returns its problems."""
    planned = plan(recipe, out=out, flops_per_s=flops_per_s)
    show_plan(planned)
    return planned.problems


def prior_stage(recipe: SparsifyRecipe, out: Path) -> None:
    """A mask in one shot, or the one that is given; where asked, SparseGPT's update of the weights."""
    inputs = SparsifyInputs(recipe, out)

    def work(folder: Path) -> None:
        write_record(folder / "prior.json", make_prior(inputs, folder))

    _stage(PRIOR, recipe, out, inputs, work, together=True)


def learn_stage(recipe: SparsifyRecipe, out: Path) -> None:
    """Train the mask: Gumbel-softmax over the ways to keep N of M (arXiv 2409.17481, section 3)."""
    require(out, PRIOR)
    inputs = SparsifyInputs(recipe, out)

    def work(folder: Path) -> None:
        # A kill while the snapshots go must leave what tells that they are not needed.
        if not processes.by_main((folder / "learn.json").exists):
            write_record(folder / "learn.json", learn(inputs, folder))
        discard_snapshots(folder)

    _stage(LEARN, recipe, out, inputs, work, together=True)


def apply_stage(recipe: SparsifyRecipe, out: Path) -> None:
    """Write the mask's zeros into the weights: a stock checkpoint."""
    require(out, PRIOR if recipe.learn is None else LEARN)
    inputs = SparsifyInputs(recipe, out)

    def work(folder: Path) -> None:
        shutil.rmtree(folder / "model", ignore_errors=True)
        apply_mask(inputs.masked_folder, MaskFile(mask_of(out)), folder / "model")

    _stage(APPLY, recipe, out, inputs, work)


def evaluate_stage(recipe: SparsifyRecipe, out: Path) -> None:
    """The dense model, one-shot masks and the result side by side; how each layer bears its mask."""
    require(out, APPLY)
    inputs = SparsifyInputs(recipe, out)

    def work(folder: Path) -> None:
        write_record(folder / "results.json", compare(inputs, folder))

    _stage(EVALUATE, recipe, out, inputs, work, together=True)


@processes.main_only
def report(out: Path) -> None:
    """One page about the run, finished or not."""
    write_product_card(out, "sparsify")
    write_sparsify_report(out)


def _stage(
    name: str,
    recipe: SparsifyRecipe,
    out: Path,
    inputs: SparsifyInputs,
    work: Any,
    *,
    together: bool = False,
) -> None:
    depends = _begin(recipe, out, inputs)
    stage(out, name, depends[name], work, together=together)


@processes.main_only
def _begin(recipe: SparsifyRecipe, out: Path, inputs: SparsifyInputs) -> dict[str, dict[str, Any]]:
    depends = stage_inputs(recipe, inputs)
    begin(out, recipe, inputs.facts(), depends)
    return depends


def stage_inputs(recipe: SparsifyRecipe, inputs: SparsifyInputs) -> dict[str, dict[str, Any]]:
    """What each stage depends on: its sections of the recipe, and all that the stages before depend on."""
    resolved = recipe.model_dump(mode="json")
    sections = {
        PRIOR: ("prior", "pattern", "dense", "dense_layers", "seed"),
        LEARN: ("learn",),
        APPLY: (),
        EVALUATE: ("evaluate",),
    }
    depends: dict[str, dict[str, Any]] = {}
    before = facts = inputs.facts()
    for name in (PRIOR, LEARN, APPLY, EVALUATE):
        if name == LEARN and recipe.learn is None:
            continue
        depends[name] = {section: resolved[section] for section in sections[name]} | {
            "earlier stages": input_hash(before)
        }
        if before is facts:
            depends[name] |= facts
            if recipe.dense_layers:
                depends[name]["sensitivity_rows"] = recipe.evaluate.sensitivity_rows
        before = depends[name]
    return depends
