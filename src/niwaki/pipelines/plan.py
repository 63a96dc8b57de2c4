"""What a compress recipe will do, before anything is loaded: shapes, costs, problems.

In: a recipe. Out: a `Plan`, from the teacher's config and the axis tables alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from niwaki.errors import CheckpointError, NiwakiError
from niwaki.ground.family import Family, family_of
from niwaki.ground.model import model_path
from niwaki.pipelines.costs import Shape, StageCost, Work, stage_costs
from niwaki.pipelines.preflight import preflight
from niwaki.recipe.compress import CompressRecipe

# Training reaches about this part of the speed of one large matrix product.
EFFICIENCY = 0.4
FEWEST_STEPS = 100


@dataclass(frozen=True)
class Plan:
    """What will happen. With `problems` it cannot; then `teacher` may be None and the rest empty.

    `candidates` are the shapes to be ranked, largest first; the costs are for the largest of them.
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
    candidates: tuple[Shape, ...] = ()
    try:
        config = read_config(recipe.teacher)
        family = family_of(config)
        sizes = family.axis_sizes(config)
        teacher = shape_of(family, config, sizes)
        candidates = find_candidates(recipe, family, config, sizes)
    except NiwakiError as error:
        problems.append(error)
    bytes_per_weight = (getattr(config, "dtype", None) or torch.float32).itemsize
    stages: tuple[StageCost, ...] = ()
    if teacher is not None and candidates:
        work = amounts(recipe, num_candidates=len(candidates))
        activation_bytes = 2 if _trains_in_bfloat16(recipe) else 4
        stages = stage_costs(
            teacher,
            candidates[0],
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
        candidates=candidates,
        stages=stages,
        flops_per_s=flops_per_s or measure_flops_per_s(),
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


def shape_of(family: Family, config: PreTrainedConfig, sizes: Mapping[str, int]) -> Shape:
    """Count a model of `sizes`, and what of it works on each token."""
    tied = bool(getattr(config, "tie_word_embeddings", False))
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
        trial_tokens=recipe.trial_tokens if recipe.choose.rank == "distill" and num_candidates > 1 else 0,
        num_candidates=num_candidates,
        evaluate_tokens=recipe.evaluate.num_tokens,
        has_baseline=recipe.evaluate.baseline == "random",
    )


def measure_flops_per_s() -> float:
    """FLOP/s that training would sustain here: `EFFICIENCY` of a large matrix product, timed for a moment."""
    on_gpu = torch.cuda.is_available()
    size, dtype = (8192, torch.bfloat16) if on_gpu else (768, torch.float32)
    matrix = torch.ones(size, size, dtype=dtype, device="cuda" if on_gpu else "cpu")

    def product_s() -> float:
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        return time.perf_counter() - start

    product_s()
    return EFFICIENCY * 2 * size**3 / min(product_s() for _ in range(5))


def _trains_in_bfloat16(recipe: CompressRecipe) -> bool:
    precision = recipe.distill.precision
    return precision == "bfloat16" or (precision == "auto" and torch.cuda.is_available())


def _warnings(recipe: CompressRecipe) -> list[str]:
    if recipe.num_steps >= FEWEST_STEPS:
        return []
    return [
        f"distill.tokens makes {recipe.num_steps} steps of {recipe.batch_rows} rows: too few to learn from. "
        f"Lower distill.batch_tokens, or give more tokens."
    ]
