"""`depth.json`: what a model does without each set of layers that was tried, saved as it becomes known.

    {"measure": "loss", "higher_is_better": false, "num_samples": 128,
     "removed": [{"layers": [], "value": 2.31}, {"layers": [3, 4, 5], "value": 2.87}, ...],
     "unfinished": null, or the running sums of sets that are being measured}

Layers are numbered from 0 in the whole model; the empty set is the whole model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niwaki.errors import RunError
from niwaki.ground import processes
from niwaki.ground.run import write_atomically

Layers = tuple[int, ...]


@dataclass
class Sums:
    """Running sums over the scored tokens of `num_rows` rows, one for each set of layers."""

    layers: list[Layers]
    totals: list[float]
    num_rows: int = 0
    num_tokens: int = 0

    def add(self, values: Sequence[float], *, num_rows: int, num_tokens: int) -> None:
        """Add what a batch shows."""
        self.totals = [total + value for total, value in zip(self.totals, values, strict=True)]
        self.num_rows += num_rows
        self.num_tokens += num_tokens


@dataclass
class DepthRecord:
    """Removed layers -> value of the measure; `num_samples` are rows of text, or questions of a task."""

    path: Path
    measure: str
    num_samples: int
    higher_is_better: bool
    values: dict[Layers, float] = field(default_factory=dict)
    unfinished: Sums | None = None

    @classmethod
    @processes.main_only
    def open(cls, path: Path, *, measure: str, num_samples: int, higher_is_better: bool) -> DepthRecord:
        """Read the record at `path`, or begin one. Collective, as everything that saves: all hold the same.

        Raises:
            RunError: it is damaged, or was measured in another way.
        """
        record = cls(path, measure, num_samples, higher_is_better)
        if not path.exists():
            return record
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            found = (raw["measure"], raw["num_samples"], raw["higher_is_better"])
            record.values = {tuple(each["layers"]): float(each["value"]) for each in raw["removed"]}
            record.unfinished = _sums(raw["unfinished"]) if raw["unfinished"] else None
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error!r}.", "Remove it to measure again.") from error
        if found != (measure, num_samples, higher_is_better):
            raise RunError(
                f"{path} holds {found[0]} on {found[1]} samples, not {measure} on {num_samples}.",
                "Give another `out`, or remove the file to measure again.",
            )
        return record

    def missing(self, removed: Sequence[Layers]) -> list[Layers]:
        """Those of `removed`, and the whole model, that have no value yet."""
        return [layers for layers in ((), *removed) if layers not in self.values]

    def add(self, layers: Layers, value: float) -> None:
        """Add one value and save."""
        self.values[layers] = value
        self.save()

    def sums_for(self, removed: Sequence[Layers]) -> Sums:
        """The running sums of these sets, as far as they have come."""
        if self.unfinished is None or self.unfinished.layers != list(removed):
            self.unfinished = Sums(list(removed), [0.0] * len(removed))
        return self.unfinished

    def finish(self, sums: Sums) -> None:
        """Turn sums into values and save."""
        means = [total / sums.num_tokens for total in sums.totals]
        self.values |= dict(zip(sums.layers, means, strict=True))
        self.unfinished = None
        self.save()

    @processes.main_only
    def save(self) -> None:
        """Write the file, whole or not at all."""
        removed = [{"layers": list(layers), "value": value} for layers, value in self.values.items()]
        content: dict[str, Any] = {
            "measure": self.measure,
            "higher_is_better": self.higher_is_better,
            "num_samples": self.num_samples,
            "removed": removed,
            "unfinished": None if self.unfinished is None else vars(self.unfinished),
        }
        write_atomically(self.path, json.dumps(content, indent=1))


def _sums(raw: dict[str, Any]) -> Sums:
    return Sums(**raw | {"layers": [tuple(layers) for layers in raw["layers"]]})
