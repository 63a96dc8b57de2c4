"""The recipe of `niwaki run` for `kind: compress`: score -> choose -> trim -> distill -> evaluate -> report.

Every section is a frozen pydantic model; unknown keys are refused. Defaults follow the papers
(arXiv 2407.14679 and 2408.11796) where they do not depend on the hardware, and are scaled down to one machine
and 100M tokens where they do. Rules that need no model are checked here; those that need the teacher's config
are checked by `niwaki check`.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from niwaki.recipe.quantities import Count, CountOrShare, Fraction, GridValue, ModelSize, Number

Axis = Literal["layer", "hidden", "ffn", "group"]
GridAxis = Literal["layer", "hidden", "ffn", "ffn_ratio", "group", "heads"]
Aggregation = Literal["mean", "l2", "var"]
STDLIB_HELD_OUT = 0.08


class Section(BaseModel):
    """What all sections share: no unknown keys, no later change, defaults checked like written values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Data(Section):
    """Text for calibration, distillation and held-out evaluation."""

    source: str = Field("stdlib", description="stdlib, a file or folder, or a hub dataset name")
    config: str | None = Field(None, description="configuration of a hub dataset")
    split: str = Field("train", description="split of a hub dataset")
    text_column: str = Field("text", description="column or key that holds the text")
    sequence_length_tokens: Count = Field(2048, gt=1, description="tokens of one training row")
    held_out: Fraction = Field(
        default_factory=lambda data: STDLIB_HELD_OUT if data.get("source") == "stdlib" else 0.02,
        gt=0,
        le=0.5,
        description="part of the documents never trained on",
    )
    max_tokens: Count | None = Field(None, gt=0, description="stop tokenising after so many; null for all")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.source == "stdlib" and self.config is not None:
            raise ValueError("config belongs to a hub dataset, and source is stdlib. Remove it.")
        if self.source == "stdlib" and self.held_out < STDLIB_HELD_OUT:
            raise ValueError(
                f"held_out {self.held_out:.3g} would train on modules that the bundled teacher and its task "
                f"hold out. Write {STDLIB_HELD_OUT:.0%} or more for stdlib."
            )
        return self


class Score(Section):
    """One calibration pass that scores every axis.

    arXiv 2407.14679, section 2.
    """

    num_samples: Count = Field(1024, gt=0, description="calibration rows")
    batch_rows: Count = Field(8, gt=0, description="rows of one forward pass; changes speed only")
    batch: Aggregation = Field("l2", description="aggregation over samples")
    sequence: Aggregation = Field("mean", description="aggregation over the tokens of a sample")


class Choose(Section):
    """Which smaller shape to cut.

    arXiv 2407.14679, section 2: a small grid inside an interval of sizes, each shape tried by a short run.
    """

    to: ModelSize = Field(description="50% | 4B | 8GB | {low: 7.8B, high: 8.5B}")
    tolerance: Fraction | None = Field(
        default_factory=lambda data: None if _is_interval(data) else 0.05,
        description="how far from `to` a shape may be; not for an interval",
    )
    axes: tuple[Axis, ...] = Field(
        ("layer", "hidden", "ffn"), description="may shrink: layer hidden ffn group (query heads)"
    )
    grid: dict[GridAxis, tuple[GridValue, ...]] | None = Field(
        None, description="instead of axes: {hidden: [3072, 4096], ffn_ratio: [3, 4], heads: [24, 32]}"
    )
    max_candidates: Count = Field(8, gt=0, description="shapes to rank at most; a grid is ranked whole")
    rank: Literal["loss", "distill"] = Field("distill", description="by loss after the cut, or after a trial")
    trial_tokens: CountOrShare = Field(
        0.04, gt=0, description="tokens of each trial distillation, or a percentage of distill.tokens"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.to.interval is not None and self.tolerance is not None:
            raise ValueError("tolerance has no meaning beside an interval {low, high}. Remove one of them.")
        if self.to.interval is None and self.tolerance is None:
            raise ValueError(
                "tolerance is needed unless `to` is an interval {low, high}; the usual one is 5%."
            )
        if not self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes must name each axis once, at least one; found {list(self.axes)}.")
        for axis, sizes in (self.grid or {}).items():
            if not sizes or min(sizes) <= 0:
                raise ValueError(f"grid.{axis} needs one or more sizes above zero.")
        for one, other in (("ffn", "ffn_ratio"), ("group", "heads")):
            if self.grid is not None and one in self.grid and other in self.grid:
                raise ValueError(
                    f"grid says the same thing twice, as {one} and as {other}. Keep one of them."
                )
        return self


class Distill(Section):
    """Forward KL on logits at temperature 1, without a language-model loss.

    arXiv 2408.11796, section 3.
    """

    tokens: Count = Field(100_000_000, gt=0, description="tokens to train on")
    batch_tokens: Count = Field(256_000, gt=0, description="tokens of one optimiser step, rounded to rows")
    micro_rows: Count = Field(4, gt=0, description="rows of one forward pass; less needs less memory")
    learning_rate: Number = Field(1e-4, gt=0, description="peak, after warm-up")
    min_learning_rate: Number = Field(1e-5, ge=0, description="at the end of the cosine")
    warmup: CountOrShare = Field(0.05, description="steps, or a percentage of all steps")
    weight_decay: Number = Field(0.1, ge=0, description="AdamW, on matrices")
    clip_norm: Number = Field(1.0, gt=0, description="largest norm of the gradient")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it"
    )
    save_every_steps: Count = Field(100, gt=0, description="steps between resumable checkpoints")
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="beside metrics.jsonl")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate:g} is above learning_rate {self.learning_rate:g}."
            )
        if self.tokens < self.batch_tokens:
            raise ValueError(
                f"tokens ({self.tokens:,}) do not fill one batch_tokens ({self.batch_tokens:,})."
            )
        return self


class Evaluate(Section):
    """How good and how fast teacher, trimmed and distilled models are."""

    num_tokens: Count = Field(1_000_000, gt=0, description="held-out tokens to measure on, at most")
    tasks: tuple[str, ...] = Field((), description="lm-eval task names")
    max_questions: Count | None = Field(None, gt=0, description="of each task; null for all")
    include_path: str | None = Field(None, description="folder with lm-eval task files of your own")
    speed: bool = Field(True, description="measure prefill and decode tokens per second")
    baseline: Literal["none", "random"] = Field(
        "none", description="random: train the same shape from random weights on the same tokens"
    )


class Report(Section):
    """What the report shows beside the figures."""

    prompts: tuple[str, ...] = Field((), description="teacher and student continue these side by side")


class CompressRecipe(Section):
    """A large model to a smaller one: score, choose, trim, distill, evaluate, report. See docs/recipes.md."""

    kind: Literal["compress"]
    teacher: str = Field(description="model folder or hub name; 'sapling' is the bundled teacher")
    out: str | None = Field(None, description="run directory; null for runs/<name of the recipe file>")
    seed: int = Field(0, ge=0, description="fixes calibration rows, row order and random weights")
    data: Data = Field(default_factory=lambda: Data())
    score: Score = Field(default_factory=lambda: Score())
    choose: Choose
    distill: Distill = Field(default_factory=lambda: Distill())
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())
    report: Report = Field(default_factory=lambda: Report())

    @property
    def batch_rows(self) -> int:
        """Rows of one optimiser step: whole micro-batches, as near to `distill.batch_tokens` as they come."""
        micro_tokens = self.distill.micro_rows * self.data.sequence_length_tokens
        return round(self.distill.batch_tokens / micro_tokens) * self.distill.micro_rows

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the distillation, so that at least `distill.tokens` are seen."""
        return self.steps(self.distill.tokens)

    @property
    def trial_tokens(self) -> int:
        """Tokens of the trial distillation of one candidate."""
        wanted = self.choose.trial_tokens
        return wanted if isinstance(wanted, int) else math.ceil(wanted * self.distill.tokens)

    def steps(self, num_tokens: int) -> int:
        """Optimiser steps that see at least `num_tokens`."""
        return math.ceil(num_tokens / (self.batch_rows * self.data.sequence_length_tokens))

    def warmup_steps(self, num_steps: int) -> int:
        """Warm-up steps of a training of `num_steps`; a shorter trial warms up in the same proportion."""
        warmup = self.distill.warmup
        share = warmup / self.num_steps if isinstance(warmup, int) else warmup
        return round(share * num_steps)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.distill.batch_tokens < self.distill.micro_rows * self.data.sequence_length_tokens:
            raise ValueError(
                f"distill.batch_tokens ({self.distill.batch_tokens:,}) is less than distill.micro_rows "
                f"({self.distill.micro_rows}) rows of data.sequence_length_tokens "
                f"({self.data.sequence_length_tokens:,})."
            )
        if self.warmup_steps(self.num_steps) >= self.num_steps > 1:
            raise ValueError(f"distill.warmup takes all {self.num_steps} steps of distill.tokens.")
        if self.choose.rank == "distill" and self.trial_tokens > self.distill.tokens:
            raise ValueError(
                f"choose.trial_tokens ({self.trial_tokens:,}) is more than distill.tokens "
                f"({self.distill.tokens:,}): a trial is the shorter run."
            )
        return self


def _is_interval(data: dict[str, object]) -> bool:
    size = data.get("to")
    return getattr(size, "interval", None) is not None


def starter() -> CompressRecipe:
    """What `niwaki new compress` writes: the bundled teacher to half its size, in minutes, offline."""
    return CompressRecipe.model_validate(
        {
            "kind": "compress",
            "teacher": "sapling",
            "data": {"sequence_length_tokens": 256},
            "score": {"num_samples": 256},
            "choose": {"to": "50%", "max_candidates": 4},
            "distill": {
                "tokens": "1M",
                "batch_tokens": 4096,
                "learning_rate": 1e-3,
                "min_learning_rate": 1e-4,
            },
            "evaluate": {"num_tokens": "100k"},
            "report": {"prompts": ["def read_lines(path):\n"]},
        }
    )
