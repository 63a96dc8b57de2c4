"""Recipe section `distill`: how the student is taught."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.quantities import Count, CountOrShare, Number
from niwaki.recipe.section import Section


class Distill(Section):
    """Forward KL on logits at temperature 1, without a language-model loss.

    arXiv 2408.11796, section 3.
    """

    teacher: str | None = Field(None, description="model to learn from; null for the model that is cut")
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
