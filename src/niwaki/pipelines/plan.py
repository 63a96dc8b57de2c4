"""What a compress recipe will do, before anything is loaded: shapes, costs, problems.

In: a recipe. Out: a `Plan`, from the teacher's config and the axis tables alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from niwaki.errors import CheckpointError, NiwakiError
from niwaki.ground.family import Family, family_of
from niwaki.ground.loop import Precision, resolve_precision
from niwaki.ground.model import model_path
from niwaki.pipelines.around import check_head_residual, counted, repair_rows
from niwaki.pipelines.costs import Shape, StageCost, Work, stage_costs
from niwaki.pipelines.preflight import preflight
from niwaki.pruning.architecture import Budget, candidates
from niwaki.recipe.compress import CompressRecipe

# Training reaches about this part of the speed of one large matrix product.
EFFICIENCY = 0.4
FEWEST_STEPS = 100


@dataclass(frozen=True)
class Plan:
    """What will happen. With `problems` it cannot; then `teacher` may be None and the rest empty.

    `candidates` are the shapes to be ranked; the costs are for the largest of them.
    `flops_per_s` is what the machine is taken to sustain.
    """

    recipe: CompressRecipe
    out: Path
    teacher: Shape | None
    bytes_per_weight: int
    candidates: tuple[Shape, ...]
    stages: tuple[StageCost, ...]
    flops_per_s: float
    problems: tuple[NiwakiError, ...]
    warnings: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        """Estimated time of all stages."""
        return sum(stage.flops for stage in self.stages) / self.flops_per_s

    @property
    def written_bytes(self) -> int:
        """Most that the run directory will hold."""
        return sum(stage.written_bytes for stage in self.stages)

    def raise_problems(self) -> None:
        """Raise the first problem, if there is one."""
        for problem in self.problems:
            raise problem


def plan(recipe: CompressRecipe, *, out: Path, flops_per_s: float | None = None) -> Plan:
    """Plan `recipe` for the run directory `out`, which is not touched.

    `flops_per_s` is what training sustains here; None measures it for a moment. Nothing is raised for a
    recipe that cannot work: the reasons are in `problems`.
    """
    problems: list[NiwakiError] = []
    config, teacher = None, None
    shapes: list[Shape] = []
    try:
        config = read_config(recipe.teacher)
        family = counted(recipe, family_of(config), family_of(config).axis_sizes(config))
        teacher = shape_of(family, config, family.axis_sizes(config))
        shapes = [shape_of(family, config, sizes) for sizes in find_candidates(recipe, config)]
        check_head_residual(recipe, teacher.sizes, [shape.sizes for shape in shapes])
    except NiwakiError as error:
        problems.append(error)
    bytes_per_weight = 4 if config is None else weight_bytes(config)
    stages: tuple[StageCost, ...] = ()
    if teacher is not None and shapes:
        largest = max(shapes, key=lambda shape: shape.num_parameters)
        work = amounts(recipe, num_candidates=len(shapes))
        work = replace(
            work,
            basis_tokens=work.calibration_rows * work.sequence_length_tokens
            if family.head_apart_below
            else 0,
            repair_tokens=repair_rows(recipe, largest.sizes) * work.sequence_length_tokens
            if recipe.trim.repair
            else 0,
        )
        activation_bytes = 2 if _trains_in_bfloat16(recipe) else 4
        stages = stage_costs(
            teacher,
            largest,
            work,
            bytes_per_weight=bytes_per_weight,
            bytes_per_activation=activation_bytes,
        )
    written_bytes = sum(stage.written_bytes for stage in stages)
    problems += preflight(recipe, out, config, written_bytes)
    return Plan(
        recipe=recipe,
        out=out,
        teacher=teacher,
        bytes_per_weight=bytes_per_weight,
        candidates=tuple(shapes),
        stages=stages,
        flops_per_s=flops_per_s or measure_flops_per_s(recipe.distill.precision),
        problems=tuple(problems),
        warnings=tuple(_warnings(recipe)),
    )


def read_config(model: str) -> PreTrainedConfig:
    """The config of a model folder, a hub name or `sapling`. Raises CheckpointError when there is none."""
    try:
        return AutoConfig.from_pretrained(model_path(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Model {model!r} has no config that loads: {str(error).splitlines()[0]}",
            "Give a folder with config.json, a hub name such as Qwen/Qwen3-8B, or sapling.",
        ) from error


def find_candidates(recipe: CompressRecipe, config: PreTrainedConfig) -> list[dict[str, int]]:
    """The shapes, axis -> size, that the recipe ranks for a teacher of this config, in order of preference.

    Raises:
        FamilyError: there is no table for this family.
        BudgetError: no shape is inside the budget.
        RecipeError: a value of the grid is none that the teacher can take.
    """
    sizes, tied = family_of(config).axis_sizes(config), _is_tied(config)
    family = counted(recipe, family_of(config), sizes)
    budget = budget_of(
        recipe, num_parameters=family.count(sizes, tied=tied), parameter_bytes=weight_bytes(config)
    )
    grid = recipe.choose.grid
    return candidates(
        family,
        sizes,
        budget=budget,
        tied=tied,
        grid=None if grid is None else {str(axis): values for axis, values in grid.items()},
        axes=recipe.choose.axes,
        limit=recipe.choose.max_candidates,
    )


def budget_of(recipe: CompressRecipe, *, num_parameters: int, parameter_bytes: int) -> Budget:
    """What `choose.to` asks of a teacher with `num_parameters`, saved with `parameter_bytes` each."""
    to, tolerance = recipe.choose.to, recipe.choose.tolerance
    if to.interval is not None:
        return Budget.between(*to.interval)
    assert tolerance is not None, "the recipe has a tolerance wherever there is no interval"
    if to.num_bytes is not None:
        return Budget.of_bytes(to.num_bytes, parameter_bytes=parameter_bytes, tolerance=tolerance)
    target = (
        to.num_parameters if to.num_parameters is not None else round((to.fraction or 0) * num_parameters)
    )
    return Budget.around(target, tolerance=tolerance)


def weight_bytes(config: PreTrainedConfig) -> int:
    """Bytes of one saved weight, float32 where the config does not say."""
    return (getattr(config, "dtype", None) or torch.float32).itemsize


def shape_of(family: Family, config: PreTrainedConfig, sizes: Mapping[str, int]) -> Shape:
    """Count a model of `sizes`, and what of it works on each token."""
    tied = _is_tied(config) and sizes["hidden"] >= family.head_apart_below
    visited = dict(sizes)
    if "expert" in visited:
        visited["expert"] = min(visited["expert"], getattr(config, "num_experts_per_tok", visited["expert"]))
    lookup = 0 if tied else sizes["vocab"] * sizes["hidden"]
    return Shape(
        sizes=dict(sizes),
        num_parameters=family.count(sizes, tied=tied),
        num_active_parameters=family.count(visited, tied=tied) - lookup,
    )


def amounts(recipe: CompressRecipe, *, num_candidates: int) -> Work:
    """What the recipe asks for, in tokens and rows."""
    return Work(
        sequence_length_tokens=recipe.data.sequence_length_tokens,
        calibration_rows=recipe.score.num_samples,
        calibration_batch_rows=recipe.score.batch_rows,
        micro_rows=recipe.distill.micro_rows,
        distill_tokens=recipe.distill.tokens,
        trial_tokens=recipe.trial_tokens if recipe.choose.rank == "distill" else 0,
        num_candidates=num_candidates,
        evaluate_tokens=recipe.evaluate.num_tokens,
        has_baseline=recipe.evaluate.baseline == "random",
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


def _is_tied(config: PreTrainedConfig) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def _trains_in_bfloat16(recipe: CompressRecipe) -> bool:
    return resolve_precision(recipe.distill.precision) == "bfloat16"


def _warnings(recipe: CompressRecipe) -> list[str]:
    if recipe.num_steps >= FEWEST_STEPS:
        return []
    return [
        f"distill.tokens makes {recipe.num_steps} steps of {recipe.batch_rows} rows: too few to learn from. "
        f"Lower distill.batch_tokens, or give more tokens."
    ]
