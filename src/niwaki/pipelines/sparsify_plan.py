"""What a sparsify recipe will do, before anything is loaded: tensors, memory, time, problems.

In: a recipe. Out: a `SparsifyPlan`, from the model's config and the axis table alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from niwaki.errors import BudgetError, NiwakiError, RecipeError
from niwaki.ground import processes
from niwaki.ground.adam8 import BYTES_PER_MOMENT
from niwaki.ground.loop import resolve_precision
from niwaki.ground.streamed import allowed_memory_bytes
from niwaki.masks.memory import MaskMemory, estimate
from niwaki.masks.packed import Packing
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import Shapes, maskable
from niwaki.pipelines.amounts import measure_flops_per_s
from niwaki.pipelines.costs import BYTES_FLOAT32, Shape, StageCost
from niwaki.pipelines.inputs import compute_dtype, device
from niwaki.pipelines.plan import FEWEST_STEPS, own_shape, read_config, weight_bytes
from niwaki.pipelines.preflight import check_data, check_out, check_shares, check_tasks, check_tokenizer
from niwaki.pipelines.sparsify_inputs import SparsifyInputs
from niwaki.recipe.sparsify import Learn, SparsifyRecipe

# A pass that hears a layer's inputs and one that goes on through it.
_CALIBRATION_PASSES = 2
_NUM_SNAPSHOTS = 3


@dataclass(frozen=True)
class SparsifyPlan:
    """What will happen. With `problems` it cannot; then the rest may be empty.

    `shapes` are the masked tensors, `memory` what learning needs at once, None where nothing is learned.
    """

    recipe: SparsifyRecipe
    out: Path
    pattern: Pattern | None
    model: Shape | None
    shapes: Shapes
    memory: MaskMemory | None
    allowed_bytes: int
    stages: tuple[StageCost, ...]
    flops_per_s: float
    problems: tuple[NiwakiError, ...]
    warnings: tuple[str, ...]

    @property
    def num_masked(self) -> int:
        """Weights that the mask covers."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def mask_bytes(self) -> int:
        """Size of the mask file, without its header."""
        if self.pattern is None:
            return 0
        packing = Packing(self.pattern)
        return sum(packing.num_bytes(self.pattern.num_groups(shape)) for shape in self.shapes.values())

    @property
    def duration_s(self) -> float:
        """Estimated time of all stages."""
        return sum(stage.flops for stage in self.stages) / self.flops_per_s

    def raise_problems(self) -> None:
        """Raise the first problem, if there is one."""
        for problem in self.problems:
            raise problem


def plan(recipe: SparsifyRecipe, *, out: Path, flops_per_s: float | None = None) -> SparsifyPlan:
    """Plan `recipe` for the run directory `out`, which is not touched.

    `flops_per_s` is what training sustains here; None measures it for a moment. Nothing is raised for a
    recipe that cannot work: the reasons are in `problems`.
    """
    problems: list[NiwakiError] = []
    config, pattern, model = None, None, None
    shapes: Shapes = {}
    memory: MaskMemory | None = None
    stages: tuple[StageCost, ...] = ()
    allowed_bytes = allowed_memory_bytes(device())
    try:
        pattern = Pattern.parse(recipe.pattern)
        config = read_config(recipe.model)
        model = own_shape(config)
        shapes = maskable(config, pattern, recipe.dense)
    except NiwakiError as error:
        problems.append(error)
    if config is not None and model is not None and pattern is not None and shapes:
        memory = _memory(recipe, model, shapes, pattern)
        stages = _stages(recipe, config, model, shapes, pattern, memory)
        problems += _too_large(memory, allowed_bytes)
    problems += check_out(out, sum(stage.written_bytes for stage in stages))
    problems += check_data(recipe.data)
    if config is not None:
        problems += check_tokenizer(recipe.model, config)
        problems += _context(recipe, config)
        problems += _prior_mask(recipe, out)
    problems += check_tasks(recipe)
    if recipe.learn is not None:
        problems += check_shares(recipe.batch_rows, recipe.learn.micro_rows, "learn.batch_tokens")
        problems += _optimizer(recipe.learn)
    precision = "auto" if recipe.learn is None else recipe.learn.precision
    return SparsifyPlan(
        recipe=recipe,
        out=out,
        pattern=pattern,
        model=model,
        shapes=shapes,
        memory=memory,
        allowed_bytes=allowed_bytes,
        stages=stages,
        flops_per_s=flops_per_s or measure_flops_per_s(precision),
        problems=tuple(problems),
        warnings=tuple(_warnings(recipe)),
    )


def _memory(recipe: SparsifyRecipe, model: Shape, shapes: Shapes, pattern: Pattern) -> MaskMemory | None:
    learn = recipe.learn
    if learn is None:
        return None
    itemsize = compute_dtype().itemsize
    in_bfloat16 = resolve_precision(learn.precision) == "bfloat16"
    # A second dense model is there only where the masked weights are not the dense ones.
    num_models = 2 if recipe.prior.update and learn.objective == "distill" else 1
    return estimate(
        shapes,
        pattern,
        model_bytes=num_models * model.num_parameters * itemsize,
        weight_bytes=itemsize,
        activation_bytes=model.activation_bytes(
            learn.micro_rows * recipe.data.sequence_length_tokens, 2 if in_bfloat16 else BYTES_FLOAT32
        ),
        num_layers=model.sizes["layer"],
        checkpointing=learn.checkpointing,
        gate_dtype=getattr(torch, learn.gates),
        moment_bytes=BYTES_PER_MOMENT if learn.optimizer == "adamw_8bit" else BYTES_FLOAT32,
    )


def _stages(
    recipe: SparsifyRecipe,
    config: PreTrainedConfig,
    model: Shape,
    shapes: Shapes,
    pattern: Pattern,
    memory: MaskMemory | None,
) -> tuple[StageCost, ...]:
    length = recipe.data.sequence_length_tokens
    once = model.forward_flops(length)
    disk_bytes = model.num_parameters * weight_bytes(config)
    loaded_bytes = model.num_parameters * compute_dtype().itemsize
    num_masked = sum(prod(shape) for shape in shapes.values())
    mask_bytes = round(num_masked * Packing(pattern).bits_per_weight / 8)
    calibration = _CALIBRATION_PASSES * recipe.prior.num_samples * length * once
    calibrates = recipe.prior.method not in ("none", "magnitude") and recipe.prior.mask is None
    sensing = recipe.evaluate.sensitivity_rows * length * (model.sizes["layer"] + 1) * once
    largest_gram = max(shape[-1] for shape in shapes.values()) ** 2 * BYTES_FLOAT32
    found = [
        StageCost(
            "prior",
            flops=(calibration if calibrates else 0.0) + (sensing if recipe.dense_layers else 0.0),
            memory_bytes=loaded_bytes + 3 * largest_gram,
            read_bytes=disk_bytes,
            written_bytes=mask_bytes + (disk_bytes if recipe.prior.update else 0),
        )
    ]
    if recipe.learn is not None and memory is not None:
        passes = 4 if recipe.learn.objective == "distill" else 3
        passes += 1 if recipe.learn.checkpointing else 0
        snapshot_bytes = round(memory.gates * 3 / 4)
        found.append(
            StageCost(
                "learn",
                flops=passes * recipe.learn.tokens * once,
                memory_bytes=memory.total,
                read_bytes=disk_bytes,
                written_bytes=_NUM_SNAPSHOTS * snapshot_bytes + mask_bytes,
            )
        )
    found.append(StageCost("apply", read_bytes=disk_bytes, written_bytes=disk_bytes))
    methods = recipe.evaluate.methods
    calibrated = sum(name != "magnitude" for name in methods)
    found.append(
        StageCost(
            "evaluate",
            flops=calibrated * calibration
            + 2 * (len(methods) + 3) * recipe.evaluate.num_tokens * once
            + sensing,
            memory_bytes=2 * loaded_bytes,
            read_bytes=(len(methods) + 3) * disk_bytes,
        )
    )
    return tuple(found)


def _too_large(memory: MaskMemory | None, allowed_bytes: int) -> Iterator[NiwakiError]:
    if memory is not None and memory.total > allowed_bytes:
        yield BudgetError(
            f"learn needs about {memory.total / 1e9:.1f} GB of memory ({memory.gates / 1e9:.1f} GB of it for "
            f"the logits and their optimiser); {allowed_bytes / 1e9:.1f} GB are allowed.",
            "Use gates: bfloat16 with optimizer: adamw_8bit (9 bytes per weight at 2:4 instead of 24), "
            "checkpointing: true, fewer micro_rows, more layers in `dense`, or learn: null.",
        )


def _context(recipe: SparsifyRecipe, config: PreTrainedConfig) -> Iterator[NiwakiError]:
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and recipe.data.sequence_length_tokens > longest:
        yield RecipeError(
            f"data.sequence_length_tokens is {recipe.data.sequence_length_tokens}, but the model's context "
            f"{longest}.",
            f"Write {longest} or less.",
        )


def _prior_mask(recipe: SparsifyRecipe, out: Path) -> Iterator[NiwakiError]:
    if recipe.prior.mask is not None:
        try:
            SparsifyInputs(recipe, out).given_mask()
        except NiwakiError as error:
            yield error


def _optimizer(learn: Learn) -> Iterator[RecipeError]:
    if learn.optimizer == "adamw_8bit" and processes.are_sharded():
        yield RecipeError(
            "learn.optimizer is adamw_8bit, whose blocks FSDP2 would cut.",
            "Write adamw with float32 gates, or launch without FSDP2.",
        )


def _warnings(recipe: SparsifyRecipe) -> Iterator[str]:
    if recipe.learn is not None and recipe.num_steps < FEWEST_STEPS:
        yield (
            f"learn.tokens makes {recipe.num_steps} steps of {recipe.batch_rows} rows: few to learn from. "
            "Lower learn.batch_tokens, or give more tokens."
        )
    if recipe.prior.update and recipe.learn is not None:
        yield (
            "The mask is learned over weights that SparseGPT updated, which is beyond the paper: it fits "
            "those weights (1-prior/model) and not the dense checkpoint."
        )
