"""CrossThink, from sources to a model that reasons, in order (arXiv 2504.13941).

curate -> blend -> (warm up) -> rl -> evaluate -> report

Each stage reads folders and writes one, `stage` skips it when it is done, and every model in between is a
stock Hugging Face folder. The run directory is described in docs/reason.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from niwaki.errors import NiwakiError
from niwaki.evaluation.answers import answer
from niwaki.evaluation.passk import compare, summarise
from niwaki.ground import processes
from niwaki.ground.model import load_model, load_tokenizer
from niwaki.ground.run import input_hash, stage, write_atomically
from niwaki.pipelines.difficulty import asker
from niwaki.pipelines.inputs import device
from niwaki.pipelines.open_run import begin, require
from niwaki.pipelines.product import write_product_card
from niwaki.pipelines.questions import Curated, curate_inputs, make_questions
from niwaki.pipelines.reason_inputs import FRESH_FOLDER, benchmark_questions, model_facts, start_folder
from niwaki.pipelines.reason_plan import plan, show_plan
from niwaki.pipelines.reason_table import show
from niwaki.pipelines.trained import once
from niwaki.recipe.reason import ReasonRecipe
from niwaki.reporting.reason_page import write_reason_report
from niwaki.rl.extra import Extra, ModelReward
from niwaki.rl.fresh import fresh_model
from niwaki.rl.train import Lora, train_rl
from niwaki.rl.warmup import SOLUTION, warm_up
from niwaki.verify.prompt import completion_of, prompt_of
from niwaki.verify.question import Question, read_questions

WARM_UP, RL, EVALUATE = "3-warm-up", "4-rl", "5-evaluate"


def run(recipe: ReasonRecipe, *, out: Path) -> dict[str, Any]:
    """The whole line; returns what `5-evaluate/results.json` holds. A killed run goes on where it stopped."""
    for problem in plan(recipe, out=out).problems:
        raise problem
    for next_stage in (curate_stage, warm_up_stage, rl_stage, evaluate_stage):
        next_stage(recipe, out)
    report(out)
    results: dict[str, Any] = json.loads((out / EVALUATE / "results.json").read_text())
    show(results, out=out)
    return results


def check(recipe: ReasonRecipe, *, out: Path, flops_per_s: float | None) -> Sequence[NiwakiError]:
    """Plan a recipe without loading weights, print the plan, and return what would go wrong."""
    planned = plan(recipe, out=out, flops_per_s=flops_per_s)
    show_plan(planned)
    return planned.problems


@processes.main_only
def report(out: Path) -> None:
    """One page about the run, finished or not."""
    write_product_card(out, "reason")
    write_reason_report(out)


@processes.main_only
def curate_stage(recipe: ReasonRecipe, out: Path) -> Curated:
    """Sources to the training file and the benchmarks: stages 1 and 2."""
    begin(out, recipe, model_facts(recipe), stage_inputs(recipe))
    return make_questions(
        recipe.curate,
        out,
        seed=recipe.seed,
        prompt=recipe.prompt,
        answer=lambda section: asker(section, prompt=recipe.prompt),
    )


def warm_up_stage(recipe: ReasonRecipe, out: Path) -> None:
    """Fine-tune on worked solutions, from the model or from random weights; nothing without the section."""
    if recipe.warm_up is None:
        return
    curated = curate_stage(recipe, out)
    section = recipe.warm_up

    def work(folder: Path) -> None:
        questions = list(read_questions(curated.train))
        _make_fresh(recipe, questions, folder / FRESH_FOLDER)
        warm_up(
            folder / FRESH_FOLDER if recipe.fresh is not None else recipe.model,
            questions,
            out=folder,
            num_steps=section.steps,
            prompt=recipe.prompt,
            batch_rows=section.batch_rows,
            micro_rows=section.micro_rows,
            max_tokens=section.max_tokens,
            learning_rate=section.learning_rate,
            warmup_steps=section.warmup_steps,
            weight_decay=section.weight_decay,
            precision=recipe.rl.precision,
            checkpointing=section.checkpointing,
            seed=recipe.seed,
            held_out=[q for questions in benchmark_questions(recipe, curated).values() for q in questions],
        )

    stage(out, WARM_UP, stage_inputs(recipe)[WARM_UP], once(work), together=True)


@processes.main_only
def _make_fresh(recipe: ReasonRecipe, questions: Sequence[Question], folder: Path) -> None:
    if recipe.fresh is None or folder.exists():
        return
    texts = (
        prompt_of(q, recipe.prompt) + completion_of(str(q.meta.get(SOLUTION, "")), q.gold) for q in questions
    )
    fresh = recipe.fresh.model_dump()
    fresh_model(texts, folder, seed=recipe.seed, context_tokens=_context(recipe), **fresh)


def rl_stage(recipe: ReasonRecipe, out: Path) -> None:
    """GRPO with the reward of the recipe."""
    curated = curate_stage(recipe, out)
    if recipe.warm_up is not None:
        require(out, WARM_UP)
    section = recipe.rl

    def work(folder: Path) -> None:
        train_rl(
            start_folder(recipe, out),
            list(read_questions(curated.train)),
            out=folder,
            num_steps=section.steps,
            prompts_per_step=section.prompts_per_step,
            num_generations=section.num_generations,
            micro_rollouts=section.micro_rollouts,
            prompt=recipe.prompt,
            max_prompt_tokens=section.max_prompt_tokens,
            max_completion_tokens=section.max_completion_tokens,
            learning_rate=section.learning_rate,
            beta=section.beta,
            epsilon=section.epsilon,
            temperature=section.temperature,
            top_p=section.top_p,
            weight_decay=section.weight_decay,
            clip_norm=section.clip_norm,
            rule=recipe.reward.rule,
            accuracy=recipe.reward.accuracy,
            verdict_limit_s=recipe.reward.verdict_limit_s,
            extra=[
                Extra(Path(mixed.model).name, ModelReward(mixed.model), mixed.weight)
                for mixed in recipe.reward.models
            ],
            lora=None if section.lora is None else Lora(**section.lora.model_dump()),
            vllm=section.generate_with == "vllm",
            vllm_memory=section.vllm_memory,
            gradient_checkpointing=section.gradient_checkpointing,
            precision=section.precision,
            seed=recipe.seed,
            save_every_steps=section.save_every_steps,
            rollouts_kept_per_step=section.kept_rollouts,
            trackers=section.trackers,
        )

    stage(out, RL, stage_inputs(recipe)[RL], once(work), together=True)


def evaluate_stage(recipe: ReasonRecipe, out: Path) -> None:
    """The held-out questions, asked before and after."""
    curated = curate_stage(recipe, out)
    require(out, RL)
    section = recipe.evaluate

    def work(folder: Path) -> None:
        models = {"start": recipe.model} if recipe.fresh is None else {}
        models |= {"warmed": str(out / WARM_UP / "model")} if recipe.warm_up is not None else {}
        models |= {"trained": str(out / RL / "model")}
        benchmarks = benchmark_questions(recipe, curated)
        answered = {
            name: answer(
                load_model(model, device=device()),
                load_tokenizer(model),
                benchmarks,
                file=folder / f"{name}.jsonl",
                prompt=recipe.prompt,
                num_samples=section.samples,
                seeds=range(section.seeds),
                temperature=section.temperature,
                top_p=section.top_p,
                max_new_tokens=recipe.rl.max_completion_tokens,
                batch_rows=section.batch_rows,
                limit_s=recipe.reward.verdict_limit_s,
                label=name,
            )
            for name, model in models.items()
        }
        before = list(answered)[-2]
        results = {
            "models": {n: summarise(a, ks=section.pass_at, seed=recipe.seed) for n, a in answered.items()},
            "gain": compare(answered[before], answered["trained"], seed=recipe.seed),
            "gain_over": before,
        }
        write_atomically(folder / "results.json", json.dumps(results, indent=1, allow_nan=False))

    stage(out, EVALUATE, stage_inputs(recipe)[EVALUATE], work)


def stage_inputs(recipe: ReasonRecipe) -> dict[str, dict[str, Any]]:
    """What each stage depends on: its sections of the recipe, and all that the stages before depend on."""
    resolved = recipe.model_dump(mode="json")
    sections = {
        WARM_UP: ("warm_up", "fresh", "prompt", "seed"),
        RL: ("rl", "reward", "prompt", "seed"),
        EVALUATE: ("evaluate",),
    }
    before: dict[str, Any] = (
        curate_inputs(recipe.curate, recipe.seed)
        | {
            "blend": resolved["curate"]["blend"],
            "difficulty": resolved["curate"]["difficulty"],
        }
        | model_facts(recipe)
    )
    depends: dict[str, dict[str, Any]] = {}
    for name in sections if recipe.warm_up is not None else (RL, EVALUATE):
        depends[name] = {key: resolved[key] for key in sections[name]} | {
            "earlier stages": input_hash(before)
        }
        before = depends[name]
    return depends


def _context(recipe: ReasonRecipe) -> int:
    """Positions that a fresh model needs."""
    longest = recipe.rl.max_prompt_tokens + recipe.rl.max_completion_tokens
    return max(longest, recipe.warm_up.max_tokens if recipe.warm_up is not None else 0) + 1
