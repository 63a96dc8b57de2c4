"""GRPO on questions with checkable answers, through TRL's trainer (arXiv 2504.13941, section 2; 2402.03300).

In: a model folder and questions in training order. Out: `OUT/model`, a stock Hugging Face folder,
`OUT/metrics.jsonl` with counts by domain for every step, and `OUT/rollouts.jsonl` with some rollouts in full.

What the paper states is set here and never left to TRL's defaults, several of which differ: loss normalised
by sequence ("grpo", where TRL has "dapo"), KL penalty with the plain k3 estimator, one update per batch.

A killed training goes on at its newest snapshot to the same end: which question is asked, and the random
numbers of a step, depend on the number of the step alone, and the learning rate is constant.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from niwaki.errors import DataError
from niwaki.ground import processes, snapshot
from niwaki.ground.generate import as_prompt, end_ids, prompt_end, prompt_ids
from niwaki.ground.loop import Precision, resolve_precision
from niwaki.ground.model import load_model, load_tokenizer, local_folder
from niwaki.ground.progress import progress
from niwaki.ground.saved import save_model
from niwaki.rl.divided import in_parts, step_settings, unseen_by_accelerate, vllm_settings
from niwaki.rl.extra import Extra, Guarded
from niwaki.rl.form import OPEN
from niwaki.rl.order import Order
from niwaki.rl.rewards import Accuracy, Grader, Rule, grader
from niwaki.rl.steps import Judge, Keeping, Steps
from niwaki.verify.prompt import prompt_of
from niwaki.verify.question import Question


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter, merged into the saved model. `targets`: names of modules, or "all-linear"."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"


@dataclass(frozen=True)
class TrainResult:
    """Where the training ended. `num_too_long` questions were left out because of their prompts' length."""

    step: int
    num_questions: int
    num_too_long: int


def train_rl(
    model: str | Path,
    questions: Sequence[Question],
    *,
    out: Path,
    num_steps: int,
    until_step: int | None = None,
    prompts_per_step: int = 128,
    num_generations: int = 8,
    micro_rollouts: int = 8,
    prompt: str,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    learning_rate: float = 1e-6,
    beta: float = 0.001,
    epsilon: float = 0.2,
    temperature: float = 1.0,
    top_p: float = 1.0,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    rule: Rule = "and",
    accuracy: Accuracy = "typed",
    verdict_limit_s: float = 1.0,
    grade: Grader | None = None,
    extra: Sequence[Extra] = (),
    lora: Lora | None = None,
    vllm: bool = False,
    vllm_memory: float = 0.3,
    gradient_checkpointing: bool = False,
    precision: Precision = "auto",
    seed: int = 0,
    save_every_steps: int = 50,
    rollouts_kept_per_step: int = 4,
    trackers: Sequence[str] = (),
    label: str = "GRPO",
) -> TrainResult:
    """Train the model in folder `model` with GRPO, resuming from `out` if it was begun there.

    Args:
        questions: in the order in which they are asked; after the last they start again, shuffled.
        num_steps: optimiser steps, one for each batch of prompts.
        until_step: pause there, with a snapshot to go on from.
        prompts_per_step: over all processes, each with `num_generations` rollouts.
        micro_rollouts: rollouts of one forward and backward pass on one device.
        prompt: the wording, one of `verify.prompt.STYLES`.
        max_prompt_tokens: longer prompts are left out and counted; TRL would take them as they are.
        max_completion_tokens: where a rollout is cut, and then earns nothing.
        beta: of the KL penalty to the model that training starts from; 0 keeps no copy of it.
        rule: see `rewards.grader`; `accuracy` and `verdict_limit_s` too.
        grade: a grader of your own instead of the rule.
        extra: rewards added to the rule's.
        lora: train an adapter instead of all weights.
        vllm: generate with vLLM in the same process; it takes the share `vllm_memory` of the GPU.
        rollouts_kept_per_step: written in full to `rollouts.jsonl`, right and wrong ones.

    Raises:
        TrainingError: batches that do not divide, rewards that keep failing, nothing to grade, vLLM in parts.
        DataError: no question is left.
        CheckpointError: the model cannot be loaded or saved.
    """
    folder = local_folder(model)
    tokenizer = load_tokenizer(folder)
    asked = _short_enough(questions, tokenizer, prompt, max_prompt_tokens)
    span = _Span.of(out, num_steps, until_step)
    result = TrainResult(max(span.first, span.last), len(asked), len(questions) - len(asked))
    if span.is_done:
        return result
    policy = load_model(folder, dtype=torch.float32)  # steps of 1e-6 are lost in bfloat16 weights
    order = Order(asked, seed=seed)
    limits: Any = {"limit_s": verdict_limit_s, "thought_is_open": _opens_thought(tokenizer)}
    grade = grade or grader(rule, accuracy=accuracy, seed=seed, **limits)
    judge = Judge(order, grade, tokenizer, end_ids(policy, tokenizer))
    extras = [Guarded(e.function, name=e.name) for e in extra]
    arguments = grpo_arguments(
        out=out,
        max_steps=span.last - span.first,
        **step_settings(prompts_per_step * num_generations, micro_rollouts),
        **vllm_settings(vllm, vllm_memory),
        num_generations=num_generations,
        max_completion_length=max_completion_tokens,
        learning_rate=learning_rate,
        beta=beta,
        epsilon=epsilon,
        temperature=temperature,
        top_p=top_p,
        weight_decay=weight_decay,
        max_grad_norm=clip_norm,
        reward_weights=[1.0, *(e.weight for e in extra)],
        gradient_checkpointing=gradient_checkpointing,
        bf16=resolve_precision(precision) == "bfloat16",
        seed=seed,
        report_to=list(trackers) or "none",
    )
    rows = _rows(order, tokenizer, prompt, span.places(prompts_per_step))
    trainer = _trainer(policy, arguments, rows, tokenizer, [judge, *extras], lora)
    keeping = Keeping(out, span.found, save_every_steps, rollouts_kept_per_step)
    _go(trainer, span, Steps(trainer, judge, extras, keeping, span.first, span.last, seed), label)
    if span.last == num_steps and trainer.is_world_process_zero():
        _save(trainer.model, folder, out / "model", is_adapter=lora is not None)
    return result


@dataclass(frozen=True)
class _Span:
    """The steps of this call: from the newest snapshot, `found`, to the end or a pause.

    As the main process sees them: on a shared disk others may see less, and later.
    """

    found: Path | None
    first: int
    last: int
    is_done: bool

    @classmethod
    @processes.main_only
    def of(cls, out: Path, num_steps: int, until_step: int | None) -> _Span:
        found = snapshot.newest(out / "checkpoints")
        first = 0 if found is None else int(found.name.removeprefix("step-"))
        last = num_steps if until_step is None else min(until_step, num_steps)
        return cls(found, first, last, first >= num_steps and (out / "model").exists())

    def places(self, prompts_per_step: int) -> range:
        return range(self.first * prompts_per_step, self.last * prompts_per_step)


def _opens_thought(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template begins the thought, so that completions are inside it from the start."""
    return prompt_end(tokenizer).rstrip().endswith(OPEN)


def _short_enough(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, prompt: str, max_tokens: int
) -> list[Question]:
    asked = [q for q in questions if len(prompt_ids(tokenizer, prompt_of(q, prompt))) <= max_tokens]
    if not asked:
        raise DataError(
            f"Not one of {len(questions)} questions has a prompt of at most {max_tokens} tokens.",
            "Raise max_prompt_tokens, or look whether the questions were curated.",
        )
    return asked


def _rows(order: Order, tokenizer: PreTrainedTokenizerBase, prompt: str, places: range) -> Dataset:
    rows = [{"prompt": as_prompt(tokenizer, prompt_of(order[i], prompt)), "place": i} for i in places]
    # A trainer that has nothing left to do wants a row all the same.
    return Dataset.from_list(rows or [{"prompt": as_prompt(tokenizer, "-"), "place": 0}])


def _go(trainer: Any, span: _Span, steps: Steps, label: str) -> None:
    with in_parts(trainer):
        if span.last > span.first:
            _train(trainer, span, steps, label)
        elif span.found is not None:
            snapshot.restore_weights(span.found, trainer.model)


def _train(trainer: Any, span: _Span, steps: Steps, label: str) -> None:
    with progress(label, total=span.last, start=span.first, shown=trainer.is_world_process_zero()) as bar:
        steps.bar = bar
        trainer.add_callback(steps)
        trainer.train()


def grpo_arguments(*, out: Path, **stated: Any) -> Any:
    """TRL's settings: what the caller states, and what the paper does where TRL's defaults differ."""
    from trl import GRPOConfig

    # TRL sets an option by its old name.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    return GRPOConfig(
        output_dir=str(out / "trl"),
        loss_type="grpo",
        scale_rewards="group",
        importance_sampling_level="token",
        num_iterations=1,
        use_bias_correction_kl=False,
        mask_truncated_completions=False,
        multi_objective_aggregation="sum_then_normalize",
        lr_scheduler_type="constant",
        warmup_steps=0,
        shuffle_dataset=False,
        save_strategy="no",
        ddp_find_unused_parameters=False,  # a language model uses all; to look for others takes time
        logging_steps=1,
        disable_tqdm=True,
        vllm_mode="colocate",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        **stated,
    )


def _trainer(
    policy: PreTrainedModel,
    arguments: Any,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    rewards: Sequence[Judge | Guarded],
    lora: Lora | None,
) -> Any:
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    adapter = None
    if lora is not None:
        from peft import LoraConfig

        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        adapter = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
        )
    logging.set_verbosity_error()
    with unseen_by_accelerate():
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=list(rewards),
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=adapter,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _save(trained: Any, folder: Path, out: Path, *, is_adapter: bool) -> None:
    """Put the trained weights into a fresh stock model, for the trainer has changed how its own one runs."""
    merged = trained.merge_and_unload() if is_adapter else trained
    stock = load_model(folder)
    stock.load_state_dict(merged.state_dict())
    save_model(stock, folder, out, replace=True)
