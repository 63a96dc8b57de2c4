"""Recipe section `data`: the text of a run."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from niwaki.recipe.quantities import Count, Fraction
from niwaki.recipe.section import Section

STDLIB_HELD_OUT = 0.08


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
