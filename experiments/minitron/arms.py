"""The arms that several directions have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lab import SEEDS, Bench, run_arm
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Arm:
    """A name, a way to make the student, and how it learns (`options` of `lab.run_arm`)."""

    name: str
    make: Callable[[Bench, int], PreTrainedModel]
    options: Mapping[str, Any] = field(default_factory=dict)


def run(bench: Bench, arm: Arm, seeds: Sequence[int] = SEEDS, **options: Any) -> list[dict[str, Any]]:
    """The arm's results for all seeds."""
    return [run_arm(bench, arm.name, seed, arm.make, **{**arm.options, **options}) for seed in seeds]


def wide(bench: Bench, seed: int) -> PreTrainedModel:
    """All layers, fewer channels and neurons, by importance."""
    return bench.pruned(bench.teacher.wide, seed)


def deep(bench: Bench, seed: int) -> PreTrainedModel:
    """Half the layers, one contiguous block gone."""
    return bench.pruned(bench.teacher.deep, seed)


def wide_at_random(bench: Bench, seed: int) -> PreTrainedModel:
    """The shape of `wide`, with channels and neurons drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    sizes = bench.scores(seed).sizes

    def drawn(rows: int, full: int, size: int) -> torch.Tensor:
        return torch.stack(
            [torch.randperm(full, generator=generator)[:size].sort().values for _ in range(rows)]
        )

    wanted = bench.teacher.wide
    return bench.cut(
        {
            "hidden": drawn(1, sizes["hidden"], wanted["hidden"])[0],
            "ffn": drawn(sizes["layer"], sizes["ffn"], wanted["ffn"]),
        }
    )


def wide_from_nothing(bench: Bench, seed: int) -> PreTrainedModel:
    """The shape of `wide` from random weights."""
    return bench.random_weights(bench.teacher.wide, seed)


WIDTH = Arm("wide-kl", wide)
DEPTH = Arm("deep-kl", deep)
WIDTH_TEXT = Arm("wide-text", wide, {"learn": "text"})
RANDOM_UNITS = Arm("wide-at-random-kl", wide_at_random)
RANDOM_WEIGHTS = Arm("wide-from-nothing-kl", wide_from_nothing)
