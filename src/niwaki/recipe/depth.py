"""Recipe section `depth`: which layers go, where a shape has fewer."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.quantities import Count
from niwaki.recipe.section import Section

ON_ROWS = ("loss", "influence")


class Depth(Section):
    """Which layers go, where a shape has fewer.

    arXiv 2408.11796: one block by loss or task; the last layer stays.
    """

    measure: str = Field("loss", description="loss | influence (cheap) | name of an lm-eval task")
    metric: str | None = Field(None, description="of that task; null for the first that it reports")
    pattern: Literal["auto", "block", "single"] = Field(
        "auto", description="auto: single layers for one or two, a block for more"
    )
    drop: tuple[int, ...] | None = Field(
        None, description="name the layers instead, numbered from 0: [3, 4, 5]"
    )
    num_samples: Count = Field(128, gt=0, description="calibration rows to measure on; questions of a task")

    @property
    def task(self) -> str | None:
        """The lm-eval task to measure by, if it is one."""
        return None if self.measure in ON_ROWS else self.measure

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.measure.strip():
            raise ValueError("measure is empty. Write loss, influence or the name of an lm-eval task.")
        if self.metric is not None and self.task is None:
            raise ValueError(f"metric belongs to an lm-eval task, and measure is {self.measure}. Remove it.")
        if self.drop is not None:
            if not self.drop or min(self.drop) < 0:
                raise ValueError(f"drop must name layers, numbered from 0; found {list(self.drop)}.")
            twice = sorted({layer for layer in self.drop if self.drop.count(layer) > 1})
            if twice:
                raise ValueError(f"drop names layer {twice[0]} more than once.")
        return self
