"""Recipe sections about pruning: what to score, and which smaller shape to choose."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.model_size import ModelSize
from niwaki.recipe.quantities import (
    BytesCeiling,
    Count,
    CountOrShare,
    Fraction,
    GridValue,
    TimeCeiling,
)
from niwaki.recipe.section import Section

Axis = Literal["layer", "hidden", "ffn", "kv", "group", "expert", "effn"]
GridAxis = Literal["layer", "hidden", "ffn", "ffn_ratio", "kv", "group", "heads", "expert", "effn"]
Device = Literal["here", "h100", "h200", "a100", "l4", "xeon-8480"]
Aggregation = Literal["mean", "l2", "var"]


class Score(Section):
    """What matters: one calibration pass that scores every axis.

    arXiv 2407.14679, section 2.
    """

    measure: Literal["activation", "taylor", "magnitude", "random"] = Field(
        "activation", description="what importance is; the last three are for comparison"
    )
    num_samples: Count = Field(1024, gt=0, description="calibration rows")
    batch_rows: Count = Field(8, gt=0, description="rows of one forward pass; changes speed only")
    batch: Aggregation = Field("l2", description="aggregation over samples")
    sequence: Aggregation = Field("mean", description="aggregation over the tokens of a sample")
    rounds: Count = Field(1, gt=0, description="score, cut a part of the way, score again: so many times")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.measure != "activation" and (self.batch, self.sequence) != ("l2", "mean"):
            raise ValueError(
                f"batch and sequence aggregate activations; measure {self.measure} has none. Remove them."
            )
        return self


class Limits(Section):
    """What a shape may cost in service, at most; each a percentage of the teacher's, or an amount."""

    weights: BytesCeiling | None = Field(None, description="bytes of the saved weights: 50% | 8GB")
    kv_cache: BytesCeiling | None = Field(None, description="bytes of the key-value cache: 50% | 2GB")
    latency: TimeCeiling | None = Field(None, description="time to answer one request: 60% | 40ms")


class Serving(Section):
    """The request that cache and latency are counted for."""

    batch: Count = Field(1, gt=0, description="sequences answered together")
    prompt_tokens: Count = Field(512, gt=0, description="tokens read at once")
    new_tokens: Count = Field(128, gt=0, description="tokens written one by one")


class Choose(Section):
    """Which smaller shape to cut.

    arXiv 2407.14679, section 2: a small grid inside an interval of sizes, each shape tried by a short run.
    """

    to: ModelSize = Field(description="50% | 4B | 8GB | {low: 7.8B, high: 8.5B}")
    tolerance: Fraction | None = Field(
        default_factory=lambda data: None if _is_interval(data) else 0.05,
        description="how far from `to` a shape may be; not for an interval",
    )
    axes: tuple[Axis, ...] | None = Field(
        None, description="may shrink: layer hidden ffn kv group expert effn; null for depth, hidden and MLP"
    )
    grid: dict[GridAxis, tuple[GridValue, ...]] | None = Field(
        None, description="instead of axes: {hidden: [3072, 4096], ffn_ratio: [3, 4], heads: [24, 32]}"
    )
    limits: Limits = Field(
        default_factory=lambda: Limits(),
        description="at most, such as 8GB, 40ms or 50% of the teacher's",
    )
    device: Device | None = Field(
        None, description="where latency counts: here (measured) | h100 h200 a100 l4 xeon-8480 (modelled)"
    )
    serving: Serving = Field(default_factory=lambda: Serving(), description="one request")
    max_candidates: Count = Field(8, gt=0, description="shapes to rank at most; a grid is ranked whole")
    rank: Literal["loss", "distill"] = Field("distill", description="by loss after the cut, or after a trial")
    trial_tokens: CountOrShare = Field(
        0.04, gt=0, description="tokens of each trial distillation, or a percentage of distill.tokens"
    )

    halving: int = Field(
        0, ge=0, le=3, description="times that the worse half stops early: 2 is at 1/4 and 1/2 of the trial"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.limits.latency is not None and self.device is None:
            raise ValueError(
                "limits.latency needs to know where: set device to here, which measures on this machine, or "
                "to one that is modelled, such as h100."
            )
        if self.halving and self.rank == "loss":
            raise ValueError("halving stops trials early, and rank: loss has none. Remove one of them.")
        if self.to.interval is not None and self.tolerance is not None:
            raise ValueError("tolerance has no meaning beside an interval {low, high}. Remove one of them.")
        if self.to.interval is None and self.tolerance is None:
            raise ValueError(
                "tolerance is needed unless `to` is an interval {low, high}; the usual one is 5%."
            )
        if self.axes is not None and (not self.axes or len(set(self.axes)) != len(self.axes)):
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


def _is_interval(data: dict[str, object]) -> bool:
    size = data.get("to")
    return getattr(size, "interval", None) is not None
