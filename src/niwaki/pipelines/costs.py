"""What each stage of the compress line will cost, from sizes alone: FLOPs, memory, bytes.

Rough on purpose, and always stated as estimates: FLOPs count matrix products (2 per weight and token forward,
6 forward and backward) and attention scores; memory counts weights, gradients, Adam's two moments and the
activations that the backward pass needs, without checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BYTES_FLOAT32 = 4
# Weights, gradient and two moments of Adam, all float32.
TRAINING_BYTES_PER_PARAMETER = 16
# Weights and moments in one snapshot; two are kept while a third is written.
SNAPSHOT_BYTES_PER_PARAMETER = 12
NUM_SNAPSHOTS = 3
# The fused loss holds so many tokens of logits at a time: logits of student and teacher, and the gradient.
LOSS_CHUNK_TOKENS = 256
LOSS_CHUNK_COPIES = 3


@dataclass(frozen=True)
class Shape:
    """A model of these axis `sizes`.

    `num_active_parameters` take part in each token's matrix products: all but the embedding's rows and, in a
    mixture, the experts that a token does not visit.
    """

    sizes: Mapping[str, int]
    num_parameters: int
    num_active_parameters: int

    def forward_flops(self, sequence_length_tokens: int) -> float:
        """FLOPs of one token's forward pass in rows of this length; causal attention sees half of it."""
        attention = 2 * self.sizes["layer"] * self._attention_width * sequence_length_tokens
        return 2 * self.num_active_parameters + attention

    def activation_bytes(self, num_tokens: int, bytes_per_value: int) -> int:
        """What the backward pass over `num_tokens` keeps: inputs of every product, norm and activation."""
        feed_forward = self.sizes.get("effn") or self.sizes["ffn"]
        values = 10 * self.sizes["hidden"] + 4 * self._attention_width + 4 * feed_forward
        return num_tokens * self.sizes["layer"] * values * bytes_per_value

    @property
    def _attention_width(self) -> int:
        return self.sizes["kv"] * self.sizes["group"] * self.sizes["dim"]


@dataclass(frozen=True)
class StageCost:
    """What one stage needs: work, the largest memory at one time, and bytes on disk."""

    name: str
    flops: float = 0.0
    memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True)
class Work:
    """The amounts that a recipe asks for, in tokens and rows."""

    sequence_length_tokens: int
    calibration_rows: int
    calibration_batch_rows: int
    micro_rows: int
    distill_tokens: int
    trial_tokens: int
    num_candidates: int
    evaluate_tokens: int
    has_baseline: bool


def stage_costs(
    teacher: Shape,
    student: Shape,
    work: Work,
    *,
    bytes_per_weight: int,
    bytes_per_activation: int,
    taught_by: Shape | None = None,
) -> tuple[StageCost, ...]:
    """Costs of the stages in order.

    `bytes_per_weight` is that of the teacher's checkpoint, in which the trimmed model is saved too.
    `taught_by` is the model to learn from, where it is not `teacher`, the one that is cut.
    """
    tutor = taught_by or teacher
    tutor_bytes = tutor.num_parameters * bytes_per_weight
    teacher_bytes = teacher.num_parameters * bytes_per_weight
    student_bytes = student.num_parameters * bytes_per_weight
    length = work.sequence_length_tokens
    once = teacher.forward_flops(length)
    taught = distill_flops(tutor, student, length)
    training_bytes = tutor_bytes + _training_bytes(student, work, bytes_per_activation)
    snapshots = NUM_SNAPSHOTS * SNAPSHOT_BYTES_PER_PARAMETER * student.num_parameters
    calibration = teacher.activation_bytes(work.calibration_batch_rows * length, BYTES_FLOAT32)
    evaluated = work.evaluate_tokens * (once + 2 * student.forward_flops(length))
    measured = work.evaluate_tokens * student.forward_flops(length)
    return (
        StageCost(
            "score",
            flops=work.calibration_rows * length * once,
            # One layer's activations at a time: nothing is kept for a backward pass.
            memory_bytes=teacher_bytes + calibration // teacher.sizes["layer"],
            read_bytes=teacher_bytes,
        ),
        # One candidate is on disk at a time.
        StageCost(
            "choose",
            flops=work.num_candidates * (measured + work.trial_tokens * taught),
            memory_bytes=training_bytes if work.trial_tokens else teacher_bytes + student_bytes,
            read_bytes=work.num_candidates * teacher_bytes,
            written_bytes=student_bytes + (snapshots if work.trial_tokens else 0),
        ),
        StageCost("trim", read_bytes=teacher_bytes, written_bytes=student_bytes),
        StageCost(
            "distill",
            flops=work.distill_tokens * taught,
            memory_bytes=training_bytes,
            read_bytes=tutor_bytes + student_bytes,
            written_bytes=snapshots + student_bytes,
        ),
        StageCost(
            "evaluate",
            flops=evaluated + (work.distill_tokens * taught if work.has_baseline else 0),
            memory_bytes=training_bytes if work.has_baseline else teacher_bytes + student_bytes,
            read_bytes=teacher_bytes + 2 * student_bytes,
            written_bytes=snapshots + student_bytes if work.has_baseline else 0,
        ),
    )


def distill_flops(teacher: Shape, student: Shape, sequence_length_tokens: int) -> float:
    """FLOPs of one distilled token: the teacher forward, the student forward and backward."""
    length = sequence_length_tokens
    return teacher.forward_flops(length) + 3 * student.forward_flops(length)


def scratch_flops(shape: Shape, num_tokens: int, sequence_length_tokens: int) -> float:
    """FLOPs of training a model of this shape on `num_tokens` from random weights: forward and backward."""
    return 3 * shape.forward_flops(sequence_length_tokens) * num_tokens


def family_saving(teacher: float, members: Sequence[float], made: Sequence[float]) -> float:
    """How many times cheaper a family is than training each of its models from scratch.

    arXiv 2407.14679, section 1: (teacher + members from scratch) / (teacher from scratch + members as made).

    Args:
        teacher: FLOPs of training the teacher from scratch, which both ways pay for.
        members: FLOPs of training each member from scratch.
        made: FLOPs that each member took.
    """
    return (teacher + sum(members)) / (teacher + sum(made))


def _training_bytes(student: Shape, work: Work, bytes_per_activation: int) -> int:
    tokens = work.micro_rows * work.sequence_length_tokens
    chunk = LOSS_CHUNK_TOKENS * LOSS_CHUNK_COPIES * student.sizes["vocab"] * BYTES_FLOAT32
    return (
        TRAINING_BYTES_PER_PARAMETER * student.num_parameters
        + student.activation_bytes(tokens, bytes_per_activation)
        + chunk
    )
