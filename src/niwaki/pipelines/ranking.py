"""What the choose stage leaves behind: the trials, what each shape costs, and how the ranking came about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from transformers import PreTrainedConfig

from niwaki.ground.family import family_of
from niwaki.pipelines.amounts import trial_rungs
from niwaki.pipelines.plan import served
from niwaki.pipelines.serving import ServingCost
from niwaki.pipelines.spoken import in_count
from niwaki.pruning.choose import Choice
from niwaki.pruning.pareto import front, knee
from niwaki.pruning.settle import settle
from niwaki.recipe.compress import CompressRecipe

OBJECTIVES = ("num_parameters", "kv_cache_bytes", "latency_s")


def ranking(
    recipe: CompressRecipe,
    config: PreTrainedConfig,
    choice: Choice,
    *,
    latency_s: Callable[[dict[str, int]], float] | None,
) -> dict[str, Any]:
    """Everything that is known about the candidates of a teacher with this `config`.

    Returns:
        {"budget", "rank", "teacher": {"sizes", "num_parameters", costs}, "candidates": best first, one
        "chosen", "settled": see `pruning.settle`, "trial_tokens": {"trained", "saved"}, "pareto": {objective:
        {"front": numbers of candidates by rising cost, "knee"}}}. Costs are those of `ServingCost`, of the
        `serving` request on the `device` in "budget". Only candidates that trained equally long are on a
        front.
    """

    def costs(sizes: dict[str, int]) -> dict[str, Any]:
        cost: ServingCost = served(recipe, config, sizes)
        return asdict(cost if latency_s is None else replace(cost, latency_s=latency_s(sizes)))

    family = family_of(config)
    teacher = family.axis_sizes(config)
    candidates = [
        {
            "sizes": t.sizes,
            "num_parameters": t.num_parameters,
            **costs(t.sizes),
            "loss_before": t.loss_before,
            "loss_after": t.loss_after,
            "curve": t.loss_curve,
            "num_steps": t.num_steps,
            "stopped": t.stopped,
            "seed": t.seed,
            "chosen": t is choice.best,
        }
        for t in choice.trials
    ]
    settled = settle([t.loss_curve for t in choice.trials], range(len(choice.trials)))
    return {
        "budget": recipe.model_dump(mode="json")["choose"],
        "rank": recipe.choose.rank,
        "teacher": {
            "sizes": teacher,
            "num_parameters": family.count(teacher, tied=bool(config.tie_word_embeddings)),
            **costs(teacher),
        },
        "candidates": candidates,
        "settled": None if settled is None else asdict(settled),
        "trial_tokens": _trial_tokens(recipe, choice),
        "pareto": {name: found for name in OBJECTIVES if (found := _pareto(choice, candidates, name))},
    }


def say(found: Mapping[str, Any]) -> None:
    """Print how the ranking came about, where there was one."""
    console = Console(highlight=False, soft_wrap=True)
    if found["settled"] is not None:
        console.print(settled_in_words(found["settled"]))
    tokens = found["trial_tokens"]
    if tokens["saved"]:
        console.print(
            f"Trials trained on {in_count(tokens['trained'])} tokens; stopping the worse half early saved "
            f"{in_count(tokens['saved'])}."
        )


def settled_in_words(settled: Mapping[str, Any]) -> str:
    """When the ranking settled, or that it never did: a sentence."""
    last = settled["steps"][-1]
    winner, order = settled["winner_step"], settled["order_step"]
    if winner is None:
        return (
            f"The ranking never settled: the first place still changed at the end of the trial, step {last}."
        )
    first = f"The best candidate was first from step {winner} of {last} on"
    if order is None:
        return f"{first}; the order of the others never settled within the trial."
    return f"{first}; the whole order stood from step {order} on."


def _trial_tokens(recipe: CompressRecipe, choice: Choice) -> dict[str, int]:
    step_tokens = recipe.batch_rows * recipe.data.sequence_length_tokens
    full = trial_rungs(recipe)[-1] if recipe.choose.rank == "distill" else 0
    trained = sum(trial.num_steps for trial in choice.trials)
    return {
        "trained": trained * step_tokens,
        "saved": (full * len(choice.trials) - trained) * step_tokens,
    }


def _pareto(choice: Choice, candidates: list[dict[str, Any]], objective: str) -> dict[str, Any] | None:
    equals = [n for n, trial in enumerate(choice.trials) if trial.num_steps == choice.best.num_steps]
    if any(candidates[number][objective] is None for number in equals):
        return None
    points = [(float(candidates[number][objective]), choice.trials[number].loss) for number in equals]
    on_front = front(points)
    bend = knee(points, on_front)
    return {
        "front": [equals[number] for number in on_front],
        "knee": None if bend is None else equals[bend],
    }
