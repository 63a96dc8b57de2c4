"""Recipe sections about the teacher: its predictions kept on disk, and its correction."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.quantities import Count, CountOrShare, Number
from niwaki.recipe.section import Section

# The only way of teaching that a cached teacher, and one corrected alongside, can serve: keys of `distill`.
FORWARD_KL = {
    "loss": "forward_kl",
    "temperature": 1.0,
    "top_k": None,
    "jsd_beta": 0.5,
    "lm_weight": 0.0,
    "hidden": None,
}


class Cache(Section):
    """The teacher's predictions on disk: its most likely tokens, and a fair sample of the rest."""

    top_k: Count = Field(64, gt=0, description="most likely tokens of each position, kept as they are")
    samples: Count = Field(32, gt=0, description="tokens drawn from the rest; with fewer the loss is noisier")
    path: str | None = Field(None, description="folder that several runs share; null for one in the run")


class Correct(Section):
    """Fine-tune the teacher on the text that the student will learn from.

    arXiv 2408.11796, section 3.
    """

    when: Literal["before", "alongside"] = Field(
        "before", description="before everything else, or alongside the student's training"
    )
    learning_rate: Number = Field(2e-5, gt=0, description="peak; a fifth of the teacher's own in the paper")
    tokens: CountOrShare | None = Field(
        None, gt=0, description="to train on, or a percentage of distill.tokens; null for all of these"
    )
    warmup: CountOrShare | None = Field(
        None, description="steps, or a percentage of all; null for distill.warmup, at most the paper's 120"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name in ("tokens", "warmup"):
            if self.when == "alongside" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is the student's when the teacher is corrected alongside. Remove it."
                )
        return self


def refuse_other_losses(distill: object, what: str) -> None:
    """Raise ValueError, naming the key, when section `distill` asks for more than forward KL on logits."""
    for key, usual in FORWARD_KL.items():
        value: Any = getattr(distill, key)
        if value == usual:
            continue
        shown = f" ({value})" if isinstance(value, (int, float, str)) else ""
        raise ValueError(
            f"distill.{key}{shown} needs a live teacher that stays as it is, and {what} serves forward KL on "
            f"logits alone. Remove one of them."
        )
