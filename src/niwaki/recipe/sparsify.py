"""The recipe of `niwaki run` for `kind: sparsify`: prior -> learn -> apply -> evaluate -> report.

Defaults follow MaskLLM (arXiv 2409.17481, its appendix and published recipes) where they do not depend on the
hardware, and are scaled down to one machine where they do.
"""

from __future__ import annotations

import math
import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from niwaki.recipe.data import Data
from niwaki.recipe.quantities import Count, CountOrShare, Number
from niwaki.recipe.section import Section, check_training


class Prior(Section):
    """The mask to start from, made in one shot; without `learn` it is the result."""

    method: Literal["magnitude", "wanda", "sparsegpt", "none"] = Field(
        "sparsegpt", description="magnitude, wanda or sparsegpt; none: learn from noise alone"
    )
    update: bool = Field(
        False, description="SparseGPT's update of the surviving weights; learning then starts from them"
    )
    mask: str | None = Field(None, description="a mask file of this model instead, such as a general mask")
    num_samples: Count = Field(128, gt=0, description="calibration rows")
    batch_rows: Count = Field(4, gt=0, description="rows of one forward pass; changes speed only")
    damping: Number = Field(0.01, gt=0, description="of SparseGPT, relative to the mean of the diagonal")
    block_columns: Count = Field(128, gt=0, description="of SparseGPT; changes speed only")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.update and self.method != "sparsegpt":
            raise ValueError(f"update is SparseGPT's, and method is {self.method}. Remove it.")
        if self.mask is not None and (self.update or self.method != "sparsegpt"):
            raise ValueError("mask is a prior of its own. Remove method and update.")
        return self


class Learn(Section):
    """How the mask is trained.

    arXiv 2409.17481, sections 3 and 4; maskllm 2.6.
    """

    objective: Literal["lm", "distill"] = Field(
        "lm", description="lm: next token, as in the paper; distill: nearness to the dense model"
    )
    tokens: Count = Field(16_000_000, gt=0, description="tokens to train on; 2B in the paper")
    batch_tokens: Count = Field(65_536, gt=0, description="tokens of one optimiser step, rounded to rows")
    micro_rows: Count = Field(1, gt=0, description="rows that share one sample of the masks")
    learning_rate: Number = Field(2e-3, gt=0, description="peak; 5e-4 for 2,000 steps in the paper")
    min_learning_rate: Number = Field(2e-4, ge=0, description="at the end of the cosine")
    warmup: CountOrShare = Field(0, ge=0, description="steps, or a percentage of all steps")
    weight_decay: Number = Field(0.1, ge=0, description="AdamW, on the logits")
    clip_norm: Number = Field(1.0, gt=0, description="largest norm of the gradient")
    kappa: tuple[Number, Number] = Field((100.0, 500.0), description="scale of the logits, first and last")
    tau: tuple[Number, Number] = Field((4.0, 0.05), description="temperature, first and last")
    prior_strength: Number = Field(3.0, ge=0, description="alpha: how far the logits lean to the prior")
    init_std: Number = Field(0.01, gt=0, description="of the logits at the start")
    regularization: Number = Field(1e-5, ge=0, description="lambda: keeps the norm of what survives large")
    reg_decay: bool = Field(True, description="lambda fades to zero; false: the paper's constant")
    hard: bool = Field(False, description="sample one candidate forward, soft gradients back")
    gates: Literal["float32", "bfloat16"] = Field(
        "float32", description="dtype of the logits; bfloat16 is rounded stochastically"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit keeps its moments in a byte each"
    )
    checkpointing: bool = Field(False, description="compute activations twice and keep those of one layer")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it"
    )
    save_every_steps: Count = Field(100, gt=0, description="steps between resumable checkpoints")
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="beside metrics.jsonl")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_training(
            learning_rate=self.learning_rate,
            min_learning_rate=self.min_learning_rate,
            tokens=self.tokens,
            batch_tokens=self.batch_tokens,
        )
        for name in ("kappa", "tau"):
            if min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} {list(getattr(self, name))} must be above zero.")
        if self.gates == "bfloat16" and self.optimizer != "adamw_8bit":
            raise ValueError(
                "gates in bfloat16 need optimizer: adamw_8bit, which rounds them stochastically."
            )
        return self


class EvaluateMasks(Section):
    """How good the dense and the sparse models are."""

    num_tokens: Count = Field(1_000_000, gt=0, description="held-out tokens to measure on, at most")
    tasks: tuple[str, ...] = Field((), description="lm-eval task names")
    max_questions: Count | None = Field(None, gt=0, description="of each task; null for all")
    include_path: str | None = Field(None, description="folder with lm-eval task files of your own")
    methods: tuple[Literal["magnitude", "wanda", "sparsegpt", "sparsegpt_update"], ...] = Field(
        ("magnitude", "wanda", "sparsegpt", "sparsegpt_update"),
        description="one-shot methods to compare with",
    )
    sensitivity_rows: Count = Field(
        16, ge=0, description="calibration rows on which each layer is masked alone; 0 leaves it out"
    )
    speed: bool = Field(True, description="measure each shape's 2:4 product where a GPU has one")


class SparsifyRecipe(Section):
    """A dense model to N:M sparse: a one-shot mask, a learned one, its checkpoint. See docs/recipes.md."""

    kind: Literal["sparsify"]
    model: str = Field(description="model folder or hub name; 'sapling' is the bundled one")
    out: str | None = Field(None, description="run directory; null for runs/<name of the recipe file>")
    seed: int = Field(0, ge=0, description="fixes calibration rows, row order, start and noise of the logits")
    pattern: str = Field("2:4", description="N:M, how many of how many stay: 2:4, 1:4, 4:8")
    dense: tuple[str, ...] = Field((), description="left dense: 'layer 7', names with * for any text")
    dense_layers: Count = Field(0, ge=0, description="and so many of the most sensitive layers")
    data: Data = Field(default_factory=lambda: Data())
    prior: Prior = Field(default_factory=lambda: Prior())
    learn: Learn | None = Field(default_factory=lambda: Learn(), description="null: the prior is the result")
    evaluate: EvaluateMasks = Field(default_factory=lambda: EvaluateMasks())

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        found = re.fullmatch(r"(\d+):(\d+)", text.strip())
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"pattern {text!r} is not N:M with 0 < N < M, such as '2:4'.")
        return text.strip()

    @property
    def batch_rows(self) -> int:
        """Rows of one optimiser step: whole micro-batches, as near to `learn.batch_tokens` as they come."""
        assert self.learn is not None
        micro_tokens = self.learn.micro_rows * self.data.sequence_length_tokens
        return max(1, round(self.learn.batch_tokens / micro_tokens)) * self.learn.micro_rows

    @property
    def num_steps(self) -> int:
        """Optimiser steps, so that at least `learn.tokens` are seen; 0 where nothing is learned."""
        if self.learn is None:
            return 0
        return math.ceil(self.learn.tokens / (self.batch_rows * self.data.sequence_length_tokens))

    @property
    def warmup_steps(self) -> int:
        """Warm-up steps of the training."""
        assert self.learn is not None
        warmup = self.learn.warmup
        return warmup if isinstance(warmup, int) else round(warmup * self.num_steps)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.learn is None and self.prior.method == "none":
            raise ValueError("prior.method is none and learn is null: nothing would make a mask.")
        if self.learn is not None and self.warmup_steps >= self.num_steps > 1:
            raise ValueError(f"learn.warmup takes all {self.num_steps} steps of learn.tokens.")
        if self.dense_layers and (self.prior.method == "none" or self.prior.mask is not None):
            raise ValueError("dense_layers are found with a one-shot mask: give prior.method, no prior.mask.")
        if self.dense_layers and not self.evaluate.sensitivity_rows:
            raise ValueError("dense_layers are found on evaluate.sensitivity_rows, which is 0.")
        return self


def starter() -> SparsifyRecipe:
    """What `niwaki new sparsify` writes: the bundled model to 2:4, in minutes, offline."""
    return SparsifyRecipe.model_validate(
        {
            "kind": "sparsify",
            "model": "sapling",
            "data": {"sequence_length_tokens": 256},
            "learn": {"objective": "distill", "tokens": "200k", "batch_tokens": 2048, "micro_rows": 4},
            "evaluate": {"num_tokens": "25k"},
        }
    )
