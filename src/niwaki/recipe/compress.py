"""The recipe of `niwaki run` for `kind: compress`: score -> choose -> trim -> distill -> evaluate -> report.

Every section is a frozen pydantic model; unknown keys are refused. Defaults follow the papers
(arXiv 2407.14679 and 2408.11796) where they do not depend on the hardware, and are scaled down to one machine
and 100M tokens where they do. Rules that need no model are checked here; those that need the teacher's config
are checked by `niwaki check`.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.data import Data
from niwaki.recipe.depth import Depth
from niwaki.recipe.distill import Distill
from niwaki.recipe.pruning import Choose, Score
from niwaki.recipe.quantities import Count
from niwaki.recipe.section import Section
from niwaki.recipe.teacher import Correct, refuse_other_losses
from niwaki.recipe.trim import Trim

PAPER_WARMUP_STEPS = 120


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
    correct: Correct | None = Field(
        None, description="fine-tune the teacher on the text first, {when, learning_rate, tokens, warmup}"
    )
    data: Data = Field(default_factory=lambda: Data())
    score: Score = Field(default_factory=lambda: Score())
    choose: Choose
    depth: Depth = Field(default_factory=lambda: Depth())
    trim: Trim = Field(default_factory=lambda: Trim())
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

    @property
    def correct_tokens(self) -> int:
        """Tokens that the teacher is corrected on before everything else; 0 when it is not."""
        if self.correct is None or self.correct.when != "before":
            return 0
        wanted = 1.0 if self.correct.tokens is None else self.correct.tokens
        return wanted if isinstance(wanted, int) else math.ceil(wanted * self.distill.tokens)

    @property
    def corrects_alongside(self) -> bool:
        """Whether the teacher is corrected in the same training in which the student learns from it."""
        return self.correct is not None and self.correct.when == "alongside"

    def correct_warmup_steps(self, num_steps: int) -> int:
        """Warm-up steps of a correction of `num_steps`."""
        warmup = None if self.correct is None else self.correct.warmup
        if warmup is None:
            return min(PAPER_WARMUP_STEPS, self.warmup_steps(num_steps))
        return warmup if isinstance(warmup, int) else round(warmup * num_steps)

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
        self._check_trim()
        self._teacher_agrees()
        return self

    def _teacher_agrees(self) -> None:
        if self.correct is not None and self.distill.teacher is not None:
            raise ValueError(
                "correct is of the model that is cut, and distill.teacher is another. Remove one of them."
            )
        if self.corrects_alongside:
            if self.distill.cache is not None:
                raise ValueError(
                    "distill.cache keeps the words of a teacher that stays as it is, and correct.when is "
                    "alongside. Remove one of them, or write before."
                )
            refuse_other_losses(self.distill, "a teacher corrected alongside (correct.when)")
        steps = self.steps(self.correct_tokens)
        if self.correct_tokens and self.correct_warmup_steps(steps) >= steps > 1:
            raise ValueError(f"correct.warmup takes all {steps} steps of correct.tokens.")

    def _check_trim(self) -> None:
        """Refuse switches of `trim` that would do nothing, or undo each other."""
        # Without axes, hidden is among those that shrink, and query heads are not (`pruning.architecture`).
        shrinking: set[str] = set(self.choose.grid or self.choose.axes or ("hidden",))
        for name in ("rotate", "rescale"):
            if getattr(self.trim, name) is True and "hidden" not in shrinking:
                raise ValueError(f"trim.{name} is about cut hidden channels, and hidden cannot shrink here.")
        if self.trim.head_residual != "none":
            if not shrinking & {"group", "heads"}:
                raise ValueError(
                    "trim.head_residual is about cut query heads, and they cannot shrink here. Add group to "
                    "choose.axes, or write none."
                )
            if self.trim.repair:
                raise ValueError(
                    "trim.repair refits query rows to the teacher's and would undo trim.head_residual. "
                    "Write repair: false, or head_residual: none."
                )
        if self.trim.repair and self.score.num_samples < 2:
            raise ValueError("trim.repair needs two calibration rows: score.num_samples is 1.")


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
