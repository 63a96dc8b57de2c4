"""The recipe of `niwaki run` for `kind: reason`: curate -> warm up -> rl -> evaluate -> report.

Defaults are the paper's (arXiv 2504.13941) where it states them: 128 prompts a step, 8 rollouts each,
learning rate 1e-6 constant, KL penalty 0.001, temperature and top-p 1.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.curate import Curate
from niwaki.recipe.quantities import Count, Number
from niwaki.recipe.section import Section

FRESH = "fresh"


class Fresh(Section):
    """A small model from random weights, with a tokenizer trained on the questions; for `model: fresh`."""

    hidden: Count = Field(128, gt=0, multiple_of=32, description="width; heads are of 32")
    ffn: Count = Field(384, gt=0, description="width of the feed-forward part")
    layers: Count = Field(4, gt=0, description="number of layers")
    vocab: Count = Field(1024, ge=300, description="entries of its tokenizer at most, 256 of them bytes")


class WarmUp(Section):
    """Fine-tuning on worked solutions first, in the form that the reward asks for."""

    steps: Count = Field(200, gt=0, description="optimiser steps")
    batch_rows: Count = Field(32, gt=0, description="questions of one step")
    micro_rows: Count = Field(8, gt=0, description="questions of one forward pass; less needs less memory")
    max_tokens: Count = Field(2048, gt=0, description="longer ones, prompt and solution, are left out")
    learning_rate: Number = Field(1e-5, gt=0, description="peak; it falls to a tenth along a cosine")
    warmup_steps: Count = Field(0, description="steps in which the rate rises to its peak")
    weight_decay: Number = Field(0.0, ge=0, description="AdamW, on matrices")
    checkpointing: bool = Field(False, description="compute activations twice and keep those of one layer")


class RewardModel(Section):
    """A saved reward model whose score, squeezed into 0 to 1, is added to the rule's reward."""

    model: str = Field(description="folder or hub name of a sequence classifier with one output")
    weight: Number = Field(0.2, gt=0, description="below 1, no score outbids a right answer")


class Reward(Section):
    """What an answer earns: 1 where it is right and well formed, else 0, unless you say otherwise."""

    rule: Literal["and", "sum", "accuracy", "random"] = Field(
        "and", description="and: right and well formed; sum: half a point each; accuracy; random: a control"
    )
    accuracy: Literal["typed", "exact"] = Field(
        "typed", description="typed: by the type of the right answer; exact: the same string, as the paper"
    )
    verdict_limit_s: Number = Field(1.0, gt=0, description="seconds for one verdict; longer is wrong")
    models: tuple[RewardModel, ...] = Field((), description="reward models mixed in, {model, weight}")


class Lora(Section):
    """Train a low-rank adapter instead of all weights; it is merged into the saved model."""

    rank: Count = Field(16, gt=0, description="rank of the adapter")
    alpha: Count = Field(32, gt=0, description="its output is multiplied by alpha / rank")
    dropout: Number = Field(0.0, ge=0, lt=1, description="on the adapter's input")
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear", description="names of linear modules, such as [q_proj, v_proj]"
    )


class Rl(Section):
    """GRPO through TRL, with the paper's settings.

    arXiv 2504.13941, section 3.
    """

    steps: Count = Field(250, gt=0, description="optimiser steps, one for each batch of prompts")
    prompts_per_step: Count = Field(128, gt=0, description="prompts of one step, over all devices")
    num_generations: Count = Field(8, ge=2, description="rollouts of each prompt, which are compared")
    micro_rollouts: Count = Field(
        8, gt=0, description="rollouts of one backward pass; less needs less memory"
    )
    max_prompt_tokens: Count = Field(2048, gt=0, description="questions with longer prompts are left out")
    max_completion_tokens: Count = Field(2952, gt=0, description="where a rollout is cut; it earns nothing")
    learning_rate: Number = Field(1e-6, gt=0, description="constant")
    beta: Number = Field(0.001, ge=0, description="of the KL penalty to the model it starts from")
    epsilon: Number = Field(0.2, gt=0, lt=1, description="how far a probability may move, as a ratio")
    temperature: Number = Field(1.0, gt=0, description="of the rollouts")
    top_p: Number = Field(1.0, gt=0, le=1, description="of the rollouts")
    weight_decay: Number = Field(0.0, ge=0, description="AdamW")
    clip_norm: Number = Field(1.0, gt=0, description="largest norm of the gradient")
    lora: Lora | None = Field(
        None, description="a section {rank, alpha, dropout, targets}; null: all weights"
    )
    generate_with: Literal["transformers", "vllm"] = Field(
        "transformers", description="vllm needs a GPU and pip install niwaki[gpu]"
    )
    vllm_memory: Number = Field(0.3, gt=0, lt=1, description="vLLM's share of the GPU's memory")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it"
    )
    save_every_steps: Count = Field(25, gt=0, description="steps between resumable checkpoints")
    kept_rollouts: Count = Field(4, description="rollouts of each step written down in full")
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="beside metrics.jsonl")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.prompts_per_step * self.num_generations) % self.micro_rollouts:
            raise ValueError(
                f"prompts_per_step x num_generations ({self.prompts_per_step * self.num_generations}) is no "
                f"multiple of micro_rollouts ({self.micro_rollouts})."
            )
        return self


class Evaluate(Section):
    """How the model answers the held-out questions before and after."""

    max_questions: Count | None = Field(None, gt=1, description="of each benchmark; null for all")
    samples: Count = Field(4, gt=0, description="answers of each seed to each question")
    seeds: Count = Field(3, gt=0, description="seeds of sampling")
    temperature: Number = Field(1.0, ge=0, description="0: the likeliest answer, with one sample and seed")
    top_p: Number = Field(1.0, gt=0, le=1, description="of the samples")
    pass_at: tuple[Count, ...] = Field((1, 4, 8), description="k of pass@k; those above all samples are left")
    batch_rows: Count = Field(128, gt=0, description="answers written side by side")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.temperature == 0 and self.samples * self.seeds > 1:
            raise ValueError("temperature 0 gives one answer. Write samples: 1 and seeds: 1.")
        return self


class ReasonRecipe(Section):
    """Curated questions to a model that reasons: curate, warm up, GRPO, evaluate. See docs/reason.md."""

    kind: Literal["reason"]
    model: str = Field(description="model folder or hub name; 'fresh': a small one from random weights")
    out: str | None = Field(None, description="run directory; null for runs/<name of the recipe file>")
    seed: int = Field(0, ge=0, description="fixes questions, their order, random weights and rollouts")
    prompt: Literal["think-boxed-1", "bare-1"] = Field(
        "think-boxed-1",
        description="think-boxed-1 asks for a thought and a box; bare-1 is the question alone",
    )
    fresh: Fresh | None = Field(None, description="a section {hidden, ffn, layers, vocab} for `model: fresh`")
    curate: Curate = Field(default_factory=lambda: Curate())
    warm_up: WarmUp | None = Field(None, description="a section {steps, ...}; null: none")
    reward: Reward = Field(default_factory=lambda: Reward())
    rl: Rl = Field(default_factory=lambda: Rl())
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.fresh is not None and self.model != FRESH:
            raise ValueError(f"fresh is for `model: fresh`, and model is {self.model!r}. Remove one of them.")
        if self.model == FRESH and self.warm_up is None:
            raise ValueError("a fresh model writes nothing right and earns nothing. Add a section warm_up.")
        return self


def starter() -> ReasonRecipe:
    """What `niwaki new reason` writes: made-up questions and a small model, in minutes, offline."""
    return ReasonRecipe.model_validate(
        {
            "kind": "reason",
            "model": FRESH,
            "prompt": "bare-1",
            "fresh": {"hidden": 96, "ffn": 288, "layers": 2, "vocab": 640},
            "curate": {
                "sources": [
                    {"name": "comparison", "adapter": "generated", "rows": 800, "tasks": ["largest"]},
                    {"name": "logic", "adapter": "generated", "rows": 600, "tasks": ["truth_value"]},
                    {"name": "tables", "adapter": "generated", "rows": 800, "tasks": ["count_rows"]},
                ],
                "benchmarks": [
                    {
                        "name": f"{name}-test",
                        "adapter": "generated",
                        "rows": 60,
                        "split": "test",
                        "tasks": [task],
                    }
                    for name, task in (
                        ("comparison", "largest"),
                        ("logic", "truth_value"),
                        ("tables", "count_rows"),
                    )
                ],
            },
            "warm_up": {
                "steps": 500,
                "batch_rows": 32,
                "micro_rows": 32,
                "max_tokens": 160,
                "learning_rate": 4e-3,
                "warmup_steps": 50,
            },
            "rl": {
                "steps": 60,
                "prompts_per_step": 16,
                "num_generations": 8,
                "micro_rollouts": 128,
                "max_prompt_tokens": 96,
                "max_completion_tokens": 64,
                "learning_rate": 5e-4,
                "precision": "float32",
            },
        }
    )
