"""Recipe section `distill`: how the student is taught, by its logits and, where wanted, its hidden states."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from niwaki.recipe.quantities import Alpha, Count, CountOrShare, Layer, Number
from niwaki.recipe.section import Section, check_training
from niwaki.recipe.teacher import Cache, refuse_other_losses


class Hidden(Section):
    """Hidden states are taught as well as logits; for deep cuts of layers.

    arXiv 2407.14679, section 3.
    """

    parts: tuple[Literal["embedding", "output", "mlp_input", "attention"], ...] = Field(
        ("output", "embedding"), description="what is measured: embedding output mlp_input attention"
    )
    layers: dict[Layer, Layer] = Field(
        default_factory=lambda data: {} if data.get("parts") == ("embedding",) else {-3: -3},
        description="teacher layer: student layer; from 0, or last, last-1, ...",
    )
    measure: Literal["cosine", "mse"] = Field("cosine", description="of hidden states: cosine or mse")
    alpha: Alpha = Field("dynamic", description="weight; dynamic: as large as the logit loss, each step")

    @field_validator("layers", mode="wrap")
    @classmethod
    def _each_once(cls, value: Any, read: ValidatorFunctionWrapHandler) -> dict[int, int]:
        layers: dict[int, int] = read(value)
        if len(layers) < len(value):
            raise ValueError(f"a teacher layer is named twice in {value}.")
        return layers

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ValueError(f"parts must name each part once, at least one; found {list(self.parts)}.")
        if bool(self.layers) == (self.parts == ("embedding",)):
            raise ValueError("layers are for output, mlp_input and attention; give them with one of these.")
        if self.parts == ("attention",) and self.measure != "cosine":
            raise ValueError("attention has a measure of its own. Leave measure out.")
        if self.alpha != "dynamic" and self.alpha <= 0:
            raise ValueError(f"alpha {self.alpha:g} is not above zero. Write hidden: null to do without.")
        return self


class Distill(Section):
    """How the student is taught: by forward KL on logits alone, unless you say otherwise.

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
    loss: Literal["forward_kl", "reverse_kl", "jensen_shannon", "mse", "cosine"] = Field(
        "forward_kl", description="forward_kl, reverse_kl, jensen_shannon, mse or cosine, of the logits"
    )
    temperature: Number = Field(1.0, gt=0, description="divides the logits of both; not for mse and cosine")
    top_k: Count | None = Field(None, gt=0, description="the teacher's k largest logits alone; null for all")
    jsd_beta: Number = Field(0.5, gt=0, lt=1, description="the teacher's share, for jensen_shannon")
    lm_weight: Number = Field(0.0, ge=0, description="of the language-model loss beside it")
    hidden: Hidden | None = Field(None, description="a section {parts, layers, measure, alpha}; null: none")
    cache: Cache | None = Field(
        None, description="the teacher's predictions on disk, {top_k, samples, path}; null: a live teacher"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it"
    )
    checkpointing: bool = Field(False, description="compute activations twice and keep those of one layer")
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
        if self.temperature != 1.0 and self.loss in ("mse", "cosine"):
            raise ValueError(f"temperature {self.temperature:g} has no meaning for {self.loss}. Remove it.")
        if self.jsd_beta != 0.5 and self.loss != "jensen_shannon":
            raise ValueError(f"jsd_beta belongs to jensen_shannon, and loss is {self.loss}. Remove it.")
        if self.cache is not None:
            refuse_other_losses(self, "a cached teacher (distill.cache)")
        return self
