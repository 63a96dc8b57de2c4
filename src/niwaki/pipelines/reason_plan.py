"""What a reason recipe will do, before any weight is loaded: work, memory, files, problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, PreTrainedConfig

from niwaki.errors import CheckpointError, NiwakiError, RecipeError
from niwaki.ground import processes
from niwaki.ground.model import build_meta, count_parameters, load_tokenizer, model_path
from niwaki.pipelines.amounts import measure_flops_per_s
from niwaki.pipelines.costs import (
    BYTES_FLOAT32,
    NUM_SNAPSHOTS,
    SNAPSHOT_BYTES_PER_PARAMETER,
    TRAINING_BYTES_PER_PARAMETER,
    StageCost,
)
from niwaki.pipelines.plan_table import show_findings
from niwaki.pipelines.preflight import check_out, check_shares
from niwaki.pipelines.questions import check_section, curate_inputs
from niwaki.pipelines.spoken import in_bytes, in_words
from niwaki.recipe.reason import ReasonRecipe
from niwaki.rl.divided import WITHOUT_VLLM
from niwaki.rl.extra import check_reward_model

_FORWARD, _TRAINED = 2, 6  # FLOPs of a weight and token
_FEWEST_STEPS = 20


@dataclass(frozen=True)
class ReasonPlan:
    """What will happen; with `problems` it cannot. Costs suppose completions as long as they may get."""

    recipe: ReasonRecipe
    out: Path
    num_parameters: int | None
    stages: tuple[StageCost, ...]
    flops_per_s: float
    warnings: tuple[str, ...]
    problems: tuple[NiwakiError, ...]


def plan(recipe: ReasonRecipe, *, out: Path, flops_per_s: float | None = 1.0) -> ReasonPlan:
    """Plan `recipe` for the run directory `out`, which is not touched. None measures the machine's speed."""
    problems = list(_problems(recipe))
    num_parameters = None
    try:
        config = _config(recipe)
        num_parameters = _fresh_parameters(recipe) if config is None else count_parameters(build_meta(config))
        if config is not None:
            problems += _context(recipe, config)
    except NiwakiError as error:
        problems.append(error)
    stages = () if num_parameters is None else tuple(_costs(recipe, num_parameters))
    problems += check_out(out, sum(stage.written_bytes for stage in stages))
    return ReasonPlan(
        recipe,
        out,
        num_parameters,
        stages,
        flops_per_s or measure_flops_per_s(recipe.rl.precision),
        tuple(_warnings(recipe)),
        tuple(problems),
    )


def show_plan(planned: ReasonPlan) -> None:
    """Print the plan on stdout, its warnings and problems on stderr."""
    console = Console(highlight=False)
    recipe = planned.recipe
    table = Table("set", "form", "from", "use", box=None)
    for use, sources in (("train", recipe.curate.sources), ("evaluate", recipe.curate.benchmarks)):
        for source in sources:
            table.add_row(source.name, source.adapter, source.path or "its own place", use)
    console.print(table)
    if planned.stages:
        costs = Table("stage", "work at most", "time at most", "memory", "writes", box=None)
        for stage in planned.stages:
            costs.add_row(
                stage.name,
                f"{stage.flops:.1e} FLOP",
                in_words(stage.flops / planned.flops_per_s),
                in_bytes(stage.memory_bytes),
                in_bytes(stage.written_bytes) if stage.written_bytes else "",
            )
        console.print(costs)
        console.print(
            f"{recipe.model}: {planned.num_parameters:,} parameters. "
            f"{recipe.rl.steps} steps of {recipe.rl.prompts_per_step} prompts x {recipe.rl.num_generations} "
            f"rollouts: {recipe.rl.steps * recipe.rl.prompts_per_step:,} questions asked, "
            f"at {planned.flops_per_s / 1e9:,.0f} GFLOP/s. Sampling token by token is slower than that."
        )
        console.print(f"Writes {planned.out}/", soft_wrap=True)
    show_findings(planned.warnings, planned.problems)


def _config(recipe: ReasonRecipe) -> PreTrainedConfig | None:
    if recipe.fresh is not None:
        return None
    load_tokenizer(recipe.model)
    try:
        return AutoConfig.from_pretrained(model_path(recipe.model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"model {recipe.model!r}: {str(error).splitlines()[0]}", "Give a model folder or a hub name."
        ) from error


def _fresh_parameters(recipe: ReasonRecipe) -> int:
    """Of a Llama with tied embeddings, as `rl.fresh` builds it."""
    fresh = recipe.fresh
    assert fresh is not None
    layer = 4 * fresh.hidden**2 + 3 * fresh.hidden * fresh.ffn + 2 * fresh.hidden
    return fresh.vocab * fresh.hidden + fresh.layers * layer + fresh.hidden


def _costs(recipe: ReasonRecipe, num_parameters: int) -> Iterator[StageCost]:
    training_bytes = num_parameters * TRAINING_BYTES_PER_PARAMETER
    whole_bytes = num_parameters * BYTES_FLOAT32
    if processes.are_sharded():
        # Whole before and after the training, and while rollouts are sampled, beside the parts.
        training_bytes = training_bytes // processes.count() + whole_bytes
    written_bytes = num_parameters * (NUM_SNAPSHOTS * SNAPSHOT_BYTES_PER_PARAMETER + BYTES_FLOAT32)
    rl = recipe.rl
    if (warm := recipe.warm_up) is not None:
        tokens = warm.steps * warm.batch_rows * warm.max_tokens
        yield StageCost(
            "warm-up",
            flops=_TRAINED * num_parameters * tokens / processes.count(),
            memory_bytes=training_bytes,
            written_bytes=written_bytes,
        )
    longest = rl.max_prompt_tokens + rl.max_completion_tokens
    tokens = rl.steps * rl.prompts_per_step * rl.num_generations * longest
    passes = _FORWARD + _TRAINED + (_FORWARD if rl.beta else 0)
    reference_bytes = whole_bytes if rl.beta and rl.lora is None else 0
    yield StageCost(
        "rl",
        flops=passes * num_parameters * tokens / processes.count(),
        memory_bytes=training_bytes + reference_bytes,
        written_bytes=written_bytes,
    )
    num_questions = sum(
        min(source.rows or 0, recipe.evaluate.max_questions or (source.rows or 0))
        for source in recipe.curate.benchmarks
    )
    answers = num_questions * recipe.evaluate.samples * recipe.evaluate.seeds
    num_models = (recipe.fresh is None) + (recipe.warm_up is not None) + 1
    yield StageCost(
        "evaluate",
        flops=_FORWARD * num_parameters * answers * longest * num_models,
        memory_bytes=whole_bytes,
    )


def _problems(recipe: ReasonRecipe) -> Iterator[NiwakiError]:
    yield from _raised(lambda: check_section(recipe.curate))
    yield from _raised(lambda: curate_inputs(recipe.curate, recipe.seed))
    if not recipe.curate.benchmarks:
        yield RecipeError(
            "curate.benchmarks is empty, so nothing would be measured.", "Name at least one held-out set."
        )
    for name in ("trl", *(["peft"] if recipe.rl.lora is not None else [])):
        if find_spec(name) is None:
            yield RecipeError(f"{name} is not installed.", "pip install 'niwaki[reason]'")
    if recipe.rl.generate_with == "vllm":
        if not torch.cuda.is_available():
            yield RecipeError(
                "rl.generate_with is vllm, and there is no GPU here.", "Write generate_with: transformers."
            )
        elif find_spec("vllm") is None:
            yield RecipeError("vllm is not installed.", "pip install 'niwaki[gpu]'")
        if processes.are_sharded():
            yield RecipeError("rl.generate_with is vllm, which does not sample under FSDP2.", WITHOUT_VLLM)
    for mixed in recipe.reward.models:
        yield from _raised(partial(check_reward_model, mixed.model))
    if recipe.warm_up is not None:
        yield from check_shares(recipe.warm_up.batch_rows, recipe.warm_up.micro_rows, "warm_up.batch_rows")
    rollouts = recipe.rl.prompts_per_step * recipe.rl.num_generations
    yield from check_shares(rollouts, recipe.rl.micro_rollouts, "rl.prompts_per_step x rl.num_generations")


def _raised(check: Callable[[], object]) -> Iterator[NiwakiError]:
    try:
        check()
    except NiwakiError as error:
        yield error


def _context(recipe: ReasonRecipe, config: PreTrainedConfig) -> Iterator[NiwakiError]:
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is None:
        return
    asked = recipe.rl.max_prompt_tokens + recipe.rl.max_completion_tokens
    if asked > longest:
        yield RecipeError(
            f"rl.max_prompt_tokens and max_completion_tokens are {asked:,}; the model reads {longest:,}.",
            "Lower one of them.",
        )
    if recipe.warm_up is not None and recipe.warm_up.max_tokens > longest:
        yield RecipeError(
            f"warm_up.max_tokens is {recipe.warm_up.max_tokens:,}; the model's context is {longest:,}.",
            f"Write {longest} or less.",
        )


def _warnings(recipe: ReasonRecipe) -> Iterator[str]:
    if recipe.rl.steps < _FEWEST_STEPS:
        yield f"rl.steps is {recipe.rl.steps}: too few to learn from."
    if recipe.reward.rule == "random":
        yield "reward.rule is random: a control. What is gained with it is not gained from right answers."
    if recipe.reward.rule == "sum":
        yield "reward.rule is sum: a well-formed wrong answer earns half a point."
    for mixed in recipe.reward.models:
        if mixed.weight >= 1:
            yield f"reward model {mixed.model!r} of weight {mixed.weight:g} can outbid a right answer."
