"""The score file: running sums from one calibration pass, enough to rank every axis without another.

Minitron (arXiv 2407.14679, section 2.2 and Table 13) aggregates a unit's score over the tokens of a sample,
then over the samples. For each unit and token aggregation this file keeps the sum over samples of the score
and of its square, in float64, from which every sample aggregation follows; sums of parts of the calibration
set add up, so that a pass can be resumed or spread over processes.

Keys: `layers.{i}.{ffn | group | effn | hidden.{norm}}.{mean | l2 | var}.{sum | sum_squares}`;
`layers.{i}.cosine_sum`, the sum over all valid tokens of the cosine between input and output of layer i;
`layers.{i}.expert.{weighted_norm_sum | num_tokens}`, over the tokens routed to each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from niwaki.errors import CheckpointError, FamilyError, RecipeError, RunError
from niwaki.ground.tensor_file import load_tensors, save_tensors

BATCH_AGGREGATIONS = ("l2", "mean", "var")

_FORMAT = "niwaki-scores-1"


@dataclass
class Scores:
    """Sums over `num_samples` samples with `num_tokens` valid tokens of a model with these `sizes`.

    `provenance` says what was scored and how: model, data, sequence length, dtype, attention, versions.
    """

    sizes: dict[str, int]
    provenance: dict[str, Any]
    num_samples: int = 0
    num_tokens: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def importance(self, axis: str, *, batch: str = "l2", sequence: str = "mean") -> Tensor:
        """Importance of every unit of one axis, float64; larger is more important.

        hidden [d], summed over the norms; ffn [L, F]; effn [L, E, F]; group [L, KV, G], one value per query
        head; kv [L, KV], the sum over a key-value head's query heads. Two are means over tokens, which no
        aggregation changes: layer [L], the block influence 1 - E[cos(layer input, layer output)], and expert
        [L, E], E[router weight * norm of the expert's output] over the tokens routed to it (REAP,
        arXiv 2510.13999), zero for one that no token reached.

        Raises FamilyError for an axis that was not scored, RecipeError for an unknown aggregation.
        """
        if axis == "kv":
            return self.importance("group", batch=batch, sequence=sequence).sum(-1)
        if axis not in self.axes:
            raise FamilyError(
                f"Axis {axis!r} has no scores; this file holds {', '.join(self.axes) or 'none'}.",
                f"Leave {axis!r} at its full size, or score the model again with this axis.",
            )
        layers = [f"layers.{layer}" for layer in range(self.sizes["layer"])]
        if axis == "layer":
            return 1 - torch.stack([self.sums[f"{p}.cosine_sum"] for p in layers]) / self.num_tokens
        if axis == "expert":
            sums, counts = (
                torch.stack([self.sums[f"{p}.expert.{name}"] for p in layers])
                for name in ("weighted_norm_sum", "num_tokens")
            )
            return sums / counts.clamp_min(1)
        if axis == "hidden":
            norms = sorted({key.rsplit(".", 2)[0] for key in self.sums if ".hidden." in key})
            return torch.stack([self._over_samples(norm, batch, sequence) for norm in norms]).sum(0)
        return torch.stack([self._over_samples(f"{p}.{axis}", batch, sequence) for p in layers])

    def importances(self, *, batch: str = "l2", sequence: str = "mean") -> dict[str, Tensor]:
        """Importance of every axis that was scored, and of `kv` beside `group`: what `select` ranks by."""
        axes = [*self.axes, *(["kv"] if "group" in self.axes else [])]
        return {axis: self.importance(axis, batch=batch, sequence=sequence) for axis in axes}

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that were scored."""
        starts = {
            "hidden": "hidden.",
            "ffn": "ffn.",
            "group": "group.",
            "layer": "cosine_sum",
            "expert": "expert.",
            "effn": "effn.",
        }
        keys = [key.removeprefix("layers.0.") for key in self.sums]
        return tuple(axis for axis, start in starts.items() if any(key.startswith(start) for key in keys))

    def add_samples(self, key: str, values: Tensor) -> None:
        """Add the scores [B, ...] of B samples to the running sums of one key, in float64 on the CPU."""
        values = values.to("cpu").double()
        self.add(f"{key}.sum", values.sum(0))
        self.add(f"{key}.sum_squares", values.square().sum(0))

    def add(self, key: str, value: Tensor) -> None:
        """Add to one running sum."""
        self.sums[key] = self.sums[key] + value if key in self.sums else value

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all; equal scores give equal bytes."""
        described = {
            "format": _FORMAT,
            "sizes": self.sizes,
            "num_samples": self.num_samples,
            "num_tokens": self.num_tokens,
            "provenance": self.provenance,
        }
        save_tensors(path, self.sums, described)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read a file that `save` wrote. Raises CheckpointError when it is missing, damaged or another's."""
        sums, described = load_tensors(path, kind="score", expected=_FORMAT)
        try:
            return cls(sums=sums, **described)
        except TypeError as error:
            raise CheckpointError(
                f"Score file {path} is damaged: {error}.", "Score the model again."
            ) from error

    def _over_samples(self, key: str, batch: str, sequence: str) -> Tensor:
        if batch not in BATCH_AGGREGATIONS:
            raise RecipeError(
                f"Batch aggregation {batch!r} is unknown.", f"Choose one of {', '.join(BATCH_AGGREGATIONS)}."
            )
        if f"{key}.{sequence}.sum" not in self.sums:
            kept = sorted({k.split(".")[-2] for k in self.sums if k.startswith(f"{key}.")})
            raise RecipeError(
                f"Sequence aggregation {sequence!r} was not scored; this file holds {', '.join(kept)}.",
                f"Choose one of these, or score again with sequence={sequence!r}.",
            )
        if batch == "l2":
            return self.sums[f"{key}.{sequence}.sum_squares"].sqrt()
        mean = self.sums[f"{key}.{sequence}.sum"] / self.num_samples
        if batch == "mean":
            return mean
        mean_square = self.sums[f"{key}.{sequence}.sum_squares"] / self.num_samples
        return (mean_square - mean**2).clamp_min(0)


def merge(parts: Sequence[Scores]) -> Scores:
    """Scores of all samples together, from scores of disjoint parts of one calibration set.

    Raises RunError when the parts do not come from the same model scored the same way.
    """
    first = min(parts, key=lambda part: part.provenance["first_row"])
    for other in parts:
        names = (first.provenance.keys() | other.provenance.keys()) - {"first_row"}
        differing = sorted(n for n in names if first.provenance.get(n) != other.provenance.get(n))
        if differing or other.sums.keys() != first.sums.keys() or other.sizes != first.sizes:
            raise RunError(
                f"Scores cannot be merged: they differ in {', '.join(differing) or 'what they hold'}.",
                "Merge only scores of the same model, data and settings.",
            )
    return Scores(
        sizes=first.sizes,
        provenance=first.provenance,
        num_samples=sum(part.num_samples for part in parts),
        num_tokens=sum(part.num_tokens for part in parts),
        sums={key: torch.stack([part.sums[key] for part in parts]).sum(0) for key in first.sums},
    )
