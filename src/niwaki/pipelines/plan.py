"""What a compress recipe will do, before anything is loaded: shapes, costs, problems.

In: a recipe. Out: a `Plan`, from the teacher's config and the axis tables alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from niwaki.errors import CheckpointError, NiwakiError, RecipeError
from niwaki.ground.family import Family, family_of
from niwaki.ground.loop import resolve_precision
from niwaki.ground.model import model_path
from niwaki.ground.streamed import allowed_memory_bytes, fits
from niwaki.pipelines import cached_teacher
from niwaki.pipelines.amounts import amounts, measure_flops_per_s, with_cuts
from niwaki.pipelines.around import check_head_residual, counted
from niwaki.pipelines.costs import Shape, StageCost, stage_costs
from niwaki.pipelines.depth import depth_problems
from niwaki.pipelines.devices import DEVICES
from niwaki.pipelines.inputs import Inputs, compute_dtype, device
from niwaki.pipelines.limits import limits_of
from niwaki.pipelines.preflight import check_losses, preflight
from niwaki.pipelines.serving import Request, ServingCost, serving_cost
from niwaki.pruning.architecture import Budget, candidates
from niwaki.pruning.rounds import round_sizes
from niwaki.recipe.compress import CompressRecipe

FEWEST_STEPS = 100


@dataclass(frozen=True)
class Plan:
    """What will happen. With `problems` it cannot; then `teacher` may be None and the rest empty.

    `candidates` are the shapes to be ranked, `serving` what teacher and candidates cost in service; the costs
    of the stages are for the largest of them. `streamed_bytes` are the teacher's weights when
    they do not fit into memory, so that scoring reads them layer by layer, else 0.
    `flops_per_s` is what the machine is taken to sustain.
    """

    recipe: CompressRecipe
    out: Path
    teacher: Shape | None
    bytes_per_weight: int
    streamed_bytes: int
    candidates: tuple[Shape, ...]
    serving: tuple[ServingCost, ...]
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


def plan(
    recipe: CompressRecipe,
    *,
    out: Path,
    flops_per_s: float | None = None,
    cut_sizes: Mapping[str, int] | None = None,
    taught_by: Shape | None = None,
) -> Plan:
    """Plan `recipe` for the run directory `out`, which is not touched.

    `flops_per_s` is what training sustains here; None measures it for a moment. Nothing is raised for a
    recipe that cannot work: the reasons are in `problems`. `cut_sizes` and `taught_by` stand for models of
    these shapes that are still to be made from the recipe's teacher: the one to cut, the one to learn from.
    """
    inputs = Inputs(recipe, out)
    problems: list[NiwakiError] = []
    warnings: list[str] = []
    config, teacher, distill_config = None, None, None
    shapes: list[Shape] = []
    try:
        config = read_config(recipe.teacher)
        cut_sizes = cut_sizes or family_of(config).axis_sizes(config)
        family = counted(recipe, family_of(config), cut_sizes)
        teacher = shape_of(family, config, cut_sizes)
        shapes = [shape_of(family, config, sizes) for sizes in find_candidates(recipe, config, cut_sizes)]
        check_head_residual(recipe, teacher.sizes, [shape.sizes for shape in shapes])
        if recipe.distill.teacher is not None:
            distill_config = read_config(recipe.distill.teacher)
            taught_by = own_shape(distill_config)
    except NiwakiError as error:
        problems.append(error)
    bytes_per_weight = 4 if config is None else weight_bytes(config)
    stages: tuple[StageCost, ...] = ()
    weights_bytes = 0 if teacher is None else teacher.num_parameters * compute_dtype().itemsize
    streamed_bytes = 0 if fits(weights_bytes, device()) else weights_bytes
    serving: tuple[ServingCost, ...] = ()
    if config is not None and teacher is not None and shapes:
        serving = tuple(served(recipe, config, shape.sizes) for shape in (teacher, *shapes))
        largest = max(shapes, key=lambda shape: shape.num_parameters)
        sizes = [shape.sizes for shape in shapes]
        work = with_cuts(recipe, amounts(recipe, num_candidates=len(shapes)), family, teacher.sizes, sizes)
        if recipe.distill.cache is not None:
            a_token, num_tokens = cached_teacher.cache_bytes(inputs, teacher.sizes["vocab"])
            work = replace(work, cache_bytes_per_token=a_token, cache_tokens=num_tokens or 0)
            warnings.append(cached_teacher.size_in_words(a_token, num_tokens))
        activation_bytes = 2 if _trains_in_bfloat16(recipe) else 4
        stages = stage_costs(
            teacher,
            largest,
            work,
            bytes_per_weight=bytes_per_weight,
            bytes_per_activation=activation_bytes,
            taught_by=taught_by,
            streaming_bytes=allowed_memory_bytes(device()) if streamed_bytes else None,
        )
    if streamed_bytes:
        problems += does_not_stream(recipe, streamed_bytes)
    if teacher is not None:
        problems += check_losses(recipe, (taught_by or teacher).sizes, [shape.sizes for shape in shapes])
        problems += depth_problems(recipe, teacher.sizes["layer"], [shape.sizes for shape in shapes])
    in_run = [s for s in stages if s.name != "cache" or not cached_teacher.lies_elsewhere(recipe)]
    problems += preflight(
        recipe, out, config, sum(stage.written_bytes for stage in in_run), distill_config=distill_config
    )
    if config is not None:
        problems += cached_teacher.problems(inputs, config)
    return Plan(
        recipe=recipe,
        out=out,
        teacher=teacher,
        bytes_per_weight=bytes_per_weight,
        streamed_bytes=streamed_bytes,
        candidates=tuple(shapes),
        serving=serving,
        stages=stages,
        flops_per_s=flops_per_s or measure_flops_per_s(recipe.distill.precision),
        problems=tuple(problems),
        warnings=(*_warnings(recipe), *warnings),
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


def does_not_stream(recipe: CompressRecipe, num_bytes: int) -> Iterator[RecipeError]:
    """Yield what of a recipe needs the teacher in memory, where its `num_bytes` of weights do not fit."""
    asked = {
        f"score.measure {recipe.score.measure!r}": recipe.score.measure in ("taylor", "magnitude"),
        f"score.rounds {recipe.score.rounds}": recipe.score.rounds > 1,
    }
    for words, is_asked in asked.items():
        if is_asked:
            yield RecipeError(
                f"{words} needs all of the teacher's weights in memory; {num_bytes / 1e9:.1f} GB do not fit.",
                "Leave it at its default, which reads layer by layer, or use a machine with more memory.",
            )


def find_candidates(
    recipe: CompressRecipe,
    config: PreTrainedConfig,
    sizes: Mapping[str, int] | None = None,
    *,
    latency_s: Callable[[dict[str, int]], float] | None = None,
) -> list[dict[str, int]]:
    """The shapes, axis -> size, that the recipe ranks for a teacher of this config, in order of preference.

    Args:
        sizes: the teacher's, where they are not those of `config`.
        latency_s: measures a shape here, for `choose.device: here`; without it that limit is left out.

    Raises:
        FamilyError: there is no table for this family, or a shape is none that it can have, in the end or in
            a round of scoring.
        BudgetError: no shape is inside the budget and the limits.
        RecipeError: a value of the grid, or an axis, is none that the teacher can take.
    """
    sizes, tied = dict(sizes or family_of(config).axis_sizes(config)), _is_tied(config)
    family = counted(recipe, family_of(config), sizes)
    budget = budget_of(
        recipe, num_parameters=family.count(sizes, tied=tied), parameter_bytes=weight_bytes(config)
    )
    grid = recipe.choose.grid
    shapes = candidates(
        family,
        sizes,
        budget=budget,
        tied=tied,
        grid=None if grid is None else {str(axis): values for axis, values in grid.items()},
        axes=recipe.choose.axes,
        limit=recipe.choose.max_candidates,
        limits=limits_of(recipe.choose, sizes, lambda shape: served(recipe, config, shape), latency_s),
        fewest_experts=getattr(config, "num_experts_per_tok", None) or 1,
    )
    for shape in shapes:
        family.resize(config, shape)
        round_sizes(family, sizes, shape, num_rounds=recipe.score.rounds)
    return shapes


def request_of(recipe: CompressRecipe) -> Request:
    """The request that the recipe counts cache and latency for."""
    serving = recipe.choose.serving
    return Request(serving.batch, serving.prompt_tokens, serving.new_tokens)


def served(recipe: CompressRecipe, config: PreTrainedConfig, sizes: Mapping[str, int]) -> ServingCost:
    """What a shape of this teacher costs to serve; the latency only where it is modelled."""
    family = family_of(config)
    return serving_cost(
        shape_of(family, config, sizes),
        family.resize(config, sizes),
        request_of(recipe),
        bytes_per_weight=weight_bytes(config),
        device=DEVICES.get(recipe.choose.device or ""),
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


def own_shape(config: PreTrainedConfig) -> Shape:
    """The shape of the model that a config describes. Raises FamilyError when there is no table for it."""
    family = family_of(config)
    return shape_of(family, config, family.axis_sizes(config))


def shape_of(family: Family, config: PreTrainedConfig, sizes: Mapping[str, int]) -> Shape:
    """Count a model of `sizes`, and what of it works on each token."""
    tied = _is_tied(config) and sizes["hidden"] >= family.head_apart_below
    visited, sizes = dict(sizes), dict(sizes)
    if "expert" in visited:
        visited["expert"] = min(visited["expert"], getattr(config, "num_experts_per_tok", visited["expert"]))
    lookup = 0 if tied else sizes["vocab"] * sizes["hidden"]
    return Shape(
        sizes=sizes,
        num_parameters=family.count(sizes, tied=tied),
        num_active_parameters=family.count(visited, tied=tied) - lookup,
        num_end_parameters=family.count(sizes | {"layer": 0}, tied=tied),
    )


def _is_tied(config: PreTrainedConfig) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def _trains_in_bfloat16(recipe: CompressRecipe) -> bool:
    return resolve_precision(recipe.distill.precision) == "bfloat16"


def _warnings(recipe: CompressRecipe) -> Iterator[str]:
    if recipe.num_steps < FEWEST_STEPS:
        yield (
            f"distill.tokens makes {recipe.num_steps} steps of {recipe.batch_rows} rows: too few to learn "
            "from. Lower distill.batch_tokens, or give more tokens."
        )
    if recipe.choose.limits.latency is not None and recipe.choose.device == "here":
        yield (
            "choose.limits.latency is measured when the shapes are chosen, so the shapes above may change. "
            "With a modelled device such as h100 they are known now."
        )
