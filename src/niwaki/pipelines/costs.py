"""What each stage of the compress line will cost, from sizes alone: FLOPs, memory, bytes.

Rough on purpose, and always stated as estimates: FLOPs count matrix products (2 per weight and token forward,
6 forward and backward) and attention scores; memory counts weights, gradients, Adam's two moments and the
activations that the backward pass needs, without checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping
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
# A repair runs each layer of teacher and student to find its inputs, up to each of its four kinds of
# matrices, and once to go on to the next layer.
REPAIR_PASSES = 5


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
    """The amounts that a recipe asks for, in tokens and rows.

    `basis_tokens` are those of the pass that finds a rotation, `repair_tokens` those that one cut is
    repaired on.
    """

    sequence_length_tokens: int
    calibration_rows: int
    calibration_batch_rows: int
    micro_rows: int
    distill_tokens: int
    trial_tokens: int
    num_candidates: int
    evaluate_tokens: int
    has_baseline: bool
    basis_tokens: int = 0
    repair_tokens: int = 0


def stage_costs(
    teacher: Shape, student: Shape, work: Work, *, bytes_per_weight: int, bytes_per_activation: int
) -> tuple[StageCost, ...]:
    """Costs of the stages in order.

    `bytes_per_weight` is that of the teacher's checkpoint, in which the trimmed model is saved too.
    """
    teacher_bytes = teacher.num_parameters * bytes_per_weight
    student_bytes = student.num_parameters * bytes_per_weight
    length = work.sequence_length_tokens
    once = teacher.forward_flops(length)
    taught = distill_flops(teacher, student, length)
    training_bytes = teacher_bytes + _training_bytes(student, work, bytes_per_activation)
    snapshots = NUM_SNAPSHOTS * SNAPSHOT_BYTES_PER_PARAMETER * student.num_parameters
    calibration = teacher.activation_bytes(work.calibration_batch_rows * length, BYTES_FLOAT32)
    evaluated = work.evaluate_tokens * (once + 2 * student.forward_flops(length))
    measured = work.evaluate_tokens * student.forward_flops(length)
    repaired = REPAIR_PASSES * work.repair_tokens * (once + student.forward_flops(length))
    # The repaired student is saved before the bare one is removed.
    cut_bytes = student_bytes * (2 if work.repair_tokens else 1)
    both_bytes = teacher_bytes + BYTES_FLOAT32 * student.num_parameters if work.repair_tokens else 0
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
            flops=work.basis_tokens * once
            + work.num_candidates * (repaired + measured + work.trial_tokens * taught),
            memory_bytes=training_bytes if work.trial_tokens else teacher_bytes + student_bytes,
            read_bytes=work.num_candidates * teacher_bytes,
            written_bytes=cut_bytes + (snapshots if work.trial_tokens else 0),
        ),
        StageCost(
            "trim",
            flops=repaired,
            memory_bytes=both_bytes,
            read_bytes=teacher_bytes,
            written_bytes=cut_bytes,
        ),
        StageCost(
            "distill",
            flops=work.distill_tokens * taught,
            memory_bytes=training_bytes,
            read_bytes=teacher_bytes + student_bytes,
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


def _training_bytes(student: Shape, work: Work, bytes_per_activation: int) -> int:
    tokens = work.micro_rows * work.sequence_length_tokens
    chunk = LOSS_CHUNK_TOKENS * LOSS_CHUNK_COPIES * student.sizes["vocab"] * BYTES_FLOAT32
    return (
        TRAINING_BYTES_PER_PARAMETER * student.num_parameters
        + student.activation_bytes(tokens, bytes_per_activation)
        + chunk
    )
