"""How much a compress recipe asks for, in tokens, rows and steps, and how fast this machine may be at it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from niwaki.ground import processes
from niwaki.ground.family import Family
from niwaki.ground.loop import Precision, resolve_precision
from niwaki.pipelines.around import repair_rows
from niwaki.pipelines.costs import Work
from niwaki.pipelines.depth import num_measurements
from niwaki.pipelines.inputs import evaluate_every_steps
from niwaki.pruning.halving import rung_steps, total_steps
from niwaki.recipe.compress import CompressRecipe

# Training reaches about this part of the speed of one large matrix product.
EFFICIENCY = 0.4
# In forward passes; a backward pass costs two.
_CALIBRATION_PASSES = {"activation": 1, "taylor": 3, "magnitude": 0, "random": 0}


def trial_rungs(recipe: CompressRecipe) -> tuple[int, ...]:
    """The steps of a trial at which candidates stop; the last is the whole trial."""
    num_steps = recipe.steps(recipe.trial_tokens)
    return rung_steps(num_steps, recipe.choose.halving, every_steps=evaluate_every_steps(num_steps))


def amounts(recipe: CompressRecipe, *, num_candidates: int) -> Work:
    """What the recipe asks for, in tokens and rows."""
    rungs = trial_rungs(recipe)
    return Work(
        sequence_length_tokens=recipe.data.sequence_length_tokens,
        calibration_rows=recipe.score.num_samples,
        calibration_batch_rows=recipe.score.batch_rows,
        calibration_passes=_CALIBRATION_PASSES[recipe.score.measure],
        calibration_rounds=recipe.score.rounds,
        micro_rows=recipe.distill.micro_rows,
        distill_tokens=recipe.distill.tokens,
        trial_tokens=recipe.trial_tokens if recipe.choose.rank == "distill" else 0,
        num_candidates=num_candidates,
        evaluate_tokens=recipe.evaluate.num_tokens,
        has_baseline=recipe.evaluate.baseline == "random",
        trial_share=total_steps(num_candidates, rungs) / (num_candidates * rungs[-1]),
        num_kept_candidates=1 if len(rungs) == 1 else min(num_candidates, -(-num_candidates // 2) + 1),
        correct_tokens=recipe.correct_tokens,
        corrects_alongside=recipe.corrects_alongside,
        has_cache=recipe.distill.cache is not None,
        num_processes=processes.count(),
        is_sharded=processes.are_sharded(),
        checkpointing=recipe.distill.checkpointing,
    )


def with_cuts(
    recipe: CompressRecipe,
    work: Work,
    family: Family,
    teacher: Mapping[str, int],
    shapes: Sequence[Mapping[str, int]],
) -> Work:
    """Add what belongs to each cut: the passes that find layers to drop and a rotation, and the repair.

    `teacher` and `shapes` are axis -> size; the repair is counted for the shape that needs the most rows.
    """
    length = work.sequence_length_tokens
    measured = num_measurements(recipe, teacher["layer"], shapes) * recipe.depth.num_samples
    repaired = max(repair_rows(recipe, sizes) for sizes in shapes)
    return replace(
        work,
        basis_tokens=work.calibration_rows * length if family.head_apart_below else 0,
        depth_tokens=measured * length,
        repair_tokens=repaired * length if recipe.trim.repair else 0,
    )


def measure_flops_per_s(precision: Precision = "auto") -> float:
    """FLOP/s that training would sustain here: `EFFICIENCY` of a large matrix product, timed for a moment."""
    on_gpu = torch.cuda.is_available()
    size = 8192 if on_gpu else 768
    dtype = torch.bfloat16 if resolve_precision(precision) == "bfloat16" else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device="cuda" if on_gpu else "cpu")

    def product_s() -> float:
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        return time.perf_counter() - start

    product_s()
    return EFFICIENCY * 2 * size**3 / min(product_s() for _ in range(5))
