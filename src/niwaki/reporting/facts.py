"""What a run directory says, as `collect` reads it: one class for each thing that a report shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODELS = ("teacher", "parent", "corrected", "trimmed", "distilled", "random")


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval, as the evaluation wrote them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What the evaluation measured of one model; `None` where it measured nothing.

    `tasks` maps a task to its metrics, and each of those to (value, standard error or `None`).
    """

    num_parameters: int | None
    held_out_loss: Interval | None
    curve_loss: float | None  # on the rows of the training curves alone
    bits_per_byte: float | None
    perplexity: float | None
    kl_to_teacher: Interval | None
    tasks: dict[str, dict[str, tuple[float, float | None]]]
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    weights_bytes: int | None
    kv_bytes_per_token: float | None
    disk_bytes: int | None


@dataclass(frozen=True)
class Sample:
    """One prompt and what each model went on to write, by name of model."""

    prompt: str
    continuations: dict[str, str]


@dataclass(frozen=True)
class Importance:
    """Importance per axis: layer [L], ffn [L, F], group [L, KV, G], hidden [d]; not scored: empty.

    `measure` is the recipe's `score.measure`.
    """

    layer: list[float]
    ffn: list[list[float]]
    group: list[list[list[float]]]
    hidden: list[float]
    measure: str
    num_samples: int | None
    sequence_length_tokens: int | None


@dataclass(frozen=True)
class Candidate:
    """One shape that was considered; losses in nats per token, before and after its short distillation.

    `stopped` says why its trial ended early; `kv_cache_bytes` and `latency_s` are those of one request.
    """

    sizes: dict[str, int]
    num_parameters: int
    loss_before: float | None
    loss_after: float | None
    curve: list[tuple[float, float]]
    chosen: bool
    stopped: str | None = None
    kv_cache_bytes: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True)
class Settled:
    """How the ranking came about: per step the candidates' ranks, and from when the final order stood."""

    steps: list[int]
    ranks: list[list[int | None]]
    winner_step: int | None
    order_step: int | None


@dataclass(frozen=True)
class Front:
    """Numbers of the candidates that no other beats in both loss and a cost, and where the front bends."""

    front: list[int]
    knee: int | None


@dataclass(frozen=True)
class Choice:
    """The shapes considered for a budget."""

    budget: dict[str, Any]
    teacher_sizes: dict[str, int]
    teacher_num_parameters: int
    candidates: list[Candidate]
    settled: Settled | None = None
    trained_tokens: int | None = None
    saved_tokens: int | None = None
    fronts: dict[str, Front] = field(default_factory=dict)

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that was trimmed, if the stage has settled on one."""
        return next((candidate for candidate in self.candidates if candidate.chosen), None)


@dataclass(frozen=True)
class Depth:
    """What the teacher does without sets of its layers, by the numbers of the layers; () is all of it."""

    measure: str
    values: dict[tuple[int, ...], float]


@dataclass(frozen=True)
class Trim:
    """What was kept: `keep` per axis in the numbering of the teacher; an absent axis is kept whole.

    `dropped_layers` are the names that the layers that went have in the teacher.
    """

    keep: dict[str, Any]
    dropped_layers: list[str]
    sizes_from: dict[str, int]
    sizes_to: dict[str, int]
    num_parameters_from: int
    num_parameters_to: int


@dataclass(frozen=True)
class Curve:
    """A training run: (tokens seen, loss) per logged step, and the held-out loss along the way."""

    training: list[tuple[float, float]]
    held_out: list[tuple[float, float]]


@dataclass(frozen=True)
class Collected:
    """Everything a report or a model card says about one run."""

    run_dir: Path
    recipe: str | None
    manifest: dict[str, Any]
    importance: Importance | None
    choice: Choice | None
    depth: Depth | None
    trim: Trim | None
    curves: dict[str, Curve]
    results: dict[str, Result]
    samples: list[Sample]
    finished: dict[str, bool] = field(default_factory=dict)

    @property
    def student_dir(self) -> Path:
        """Where the distilled model is, or will be, saved."""
        return self.run_dir / "4-distill" / "model"

    @property
    def teacher_path(self) -> str | None:
        """The teacher as the manifest names it: a folder or a name on the Hub."""
        path = self.manifest.get("teacher", {}).get("path")
        return None if path is None else str(path)

    @property
    def distill_teacher_path(self) -> str | None:
        """The model that taught, where it is not the one that was cut."""
        path = self.manifest.get("distill teacher", {}).get("path")
        return None if path is None else str(path)

    @property
    def name(self) -> str:
        """The name of the run: that of its directory."""
        return self.run_dir.resolve().name
