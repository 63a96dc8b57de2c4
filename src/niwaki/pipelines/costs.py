"""What each stage of the compress line will cost, from sizes alone: FLOPs, memory, bytes.

Rough on purpose, and always stated as estimates: FLOPs count matrix products (2 per weight and token forward,
6 forward and backward) and attention scores; memory counts weights, gradients, Adam's two moments and the
activations that the backward pass needs. Of several processes, all but bytes on disk is that of one.
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
# Under FSDP2 a layer that runs is whole, and so is the one that comes next. In a training the buffer of the
# transfer and the layer's gradient are of that size too; outside the layers weight, gradient and buffer.
WHOLE_LAYERS = 2
WHOLE_LAYERS_IN_TRAINING = 4
WHOLE_ENDS_IN_TRAINING = 3
# A repair runs each layer of both models up to each of its four kinds of matrices, to find the inputs,
# and once to go on to the next layer.
REPAIR_PASSES = 5


@dataclass(frozen=True)
class Shape:
    """A model of these axis `sizes`.

    `num_active_parameters` take part in each token's matrix products: all but the embedding's rows and, in a
    mixture, the experts that a token does not visit. `num_end_parameters` lie outside the layers.
    """

    sizes: Mapping[str, int]
    num_parameters: int
    num_active_parameters: int
    num_end_parameters: int

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
    def num_layer_parameters(self) -> int:
        """Parameters of one layer, on average."""
        return (self.num_parameters - self.num_end_parameters) // self.sizes["layer"]

    @property
    def _attention_width(self) -> int:
        return self.sizes["kv"] * self.sizes["group"] * self.sizes["dim"]


@dataclass(frozen=True)
class StageCost:
    """What one stage needs of the main process: work, the largest memory at one time, and bytes on disk."""

    name: str
    flops: float = 0.0
    memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True)
class Work:
    """The amounts that a recipe asks for, in tokens and rows.

    `calibration_passes` is what scoring costs, in forward passes: 3 with a backward pass, 0 without any.
    `basis_tokens` are those of the pass that finds a rotation, `depth_tokens` those of all passes that find
    the layers to drop, `repair_tokens` those that one cut is repaired on.
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
    # Part of the trials' tokens that halving leaves to train, and the candidates that wait to go on.
    trial_share: float = 1.0
    num_kept_candidates: int = 1
    calibration_passes: int = 1
    calibration_rounds: int = 1
    # Of the teacher: tokens it is corrected on first, or whether it is alongside the student.
    correct_tokens: int = 0
    corrects_alongside: bool = False
    # Whether its predictions are kept on disk, for how many tokens, and at what size.
    has_cache: bool = False
    cache_tokens: int = 0
    cache_bytes_per_token: int = 0
    basis_tokens: int = 0
    depth_tokens: int = 0
    repair_tokens: int = 0
    # Processes that share the rows of a step, and whether they share the weights in training too (FSDP2).
    num_processes: int = 1
    is_sharded: bool = False
    # Whether the backward pass runs each layer again instead of keeping its activations.
    checkpointing: bool = False


def stage_costs(
    teacher: Shape,
    student: Shape,
    work: Work,
    *,
    bytes_per_weight: int,
    bytes_per_activation: int,
    taught_by: Shape | None = None,
    streaming_bytes: int | None = None,
) -> tuple[StageCost, ...]:
    """Costs of the stages in order.

    `bytes_per_weight` is that of the teacher's checkpoint, in which the trimmed model is saved too.
    `taught_by` is the model to learn from, where it is not `teacher`, the one that is cut. With
    `streaming_bytes` forward passes of the teacher read layers from disk, in so much memory.
    """
    tutor = taught_by or teacher
    tutor_bytes = tutor.num_parameters * bytes_per_weight
    teacher_bytes = teacher.num_parameters * bytes_per_weight
    student_bytes = student.num_parameters * bytes_per_weight
    length = work.sequence_length_tokens
    once = teacher.forward_flops(length)
    taught = _taught_flops(tutor, student, work)
    training_bytes = _training_bytes(student, work, bytes_per_activation)
    training_bytes += 0 if work.has_cache else _running_bytes(tutor, work, bytes_per_weight)
    snapshot = SNAPSHOT_BYTES_PER_PARAMETER * student.num_parameters
    snapshots = _snapshot_bytes(student)
    # A teacher in training takes as much beside the student.
    correcting_flops, correcting_bytes, corrected_bytes = 0.0, 0, 0
    if work.corrects_alongside:
        correcting_flops = (3 if work.checkpointing else 2) * once / work.num_processes
        correcting_bytes = _training_bytes(teacher, work, bytes_per_activation)
        corrected_bytes = _snapshot_bytes(teacher) + teacher_bytes
    calibration = teacher.activation_bytes(work.calibration_batch_rows * length, BYTES_FLOAT32)
    # Nothing but the activations of one layer at a time, except for a backward pass.
    held_bytes = calibration // teacher.sizes["layer"]
    if work.calibration_passes > 1:
        held_bytes = calibration + teacher.num_parameters * BYTES_FLOAT32
    whole_scoring = work.calibration_passes * work.calibration_rows * length * once
    scoring = whole_scoring / work.num_processes
    further_rounds = (work.calibration_rounds - 1) * scoring
    evaluated = work.evaluate_tokens * (once + 2 * student.forward_flops(length)) / work.num_processes
    measured = work.evaluate_tokens * student.forward_flops(length) / work.num_processes
    repaired = (
        REPAIR_PASSES * work.repair_tokens * (once + student.forward_flops(length)) / work.num_processes
    )
    # The repaired student is saved before the bare one is removed.
    cut_bytes = student_bytes * (2 if work.repair_tokens else 1)

    def beside_teacher(num_bytes: int) -> int:
        whole = teacher_bytes + num_bytes
        return whole if streaming_bytes is None else max(num_bytes, streaming_bytes)

    both_bytes = beside_teacher(BYTES_FLOAT32 * student.num_parameters) if work.repair_tokens else 0
    tried_bytes = training_bytes if work.trial_tokens else _running_bytes(student, work, bytes_per_weight)
    walked_bytes = beside_teacher(0) if work.basis_tokens + work.depth_tokens else 0
    return (
        *([_correct_cost(teacher, work, teacher_bytes, bytes_per_activation)] if work.correct_tokens else []),
        StageCost("score", scoring, beside_teacher(held_bytes), read_bytes=teacher_bytes),
        *([_cache_cost(tutor, work, tutor_bytes)] if work.has_cache else []),
        StageCost(
            "choose",
            flops=(work.basis_tokens + work.depth_tokens) * once / work.num_processes
            + work.num_candidates
            * (repaired + measured + work.trial_share * work.trial_tokens * taught + further_rounds),
            memory_bytes=max(tried_bytes, both_bytes, walked_bytes),
            read_bytes=work.num_candidates * teacher_bytes,
            # Each candidate with one snapshot, and another one while it is written.
            written_bytes=work.num_kept_candidates * (student_bytes + (snapshot if work.trial_tokens else 0))
            + (cut_bytes - student_bytes)
            + (snapshot if work.trial_tokens else 0),
        ),
        StageCost(
            "trim",
            flops=further_rounds + repaired,
            memory_bytes=both_bytes,
            read_bytes=teacher_bytes,
            written_bytes=cut_bytes,
        ),
        StageCost(
            "distill",
            flops=work.distill_tokens * (taught + correcting_flops),
            memory_bytes=training_bytes + correcting_bytes,
            read_bytes=tutor_bytes + student_bytes,
            written_bytes=snapshots + student_bytes + corrected_bytes,
        ),
        StageCost(
            "evaluate",
            flops=evaluated + (work.distill_tokens * (taught + correcting_flops) if work.has_baseline else 0),
            memory_bytes=training_bytes + correcting_bytes
            if work.has_baseline
            else sum(_running_bytes(model, work, bytes_per_weight) for model in (teacher, student)),
            read_bytes=teacher_bytes + 2 * student_bytes,
            written_bytes=snapshots + student_bytes + corrected_bytes if work.has_baseline else 0,
        ),
    )


def _correct_cost(teacher: Shape, work: Work, teacher_bytes: int, bytes_per_activation: int) -> StageCost:
    once = teacher.forward_flops(work.sequence_length_tokens)
    return StageCost(
        "correct",
        flops=(4 if work.checkpointing else 3) * work.correct_tokens * once / work.num_processes,
        memory_bytes=_training_bytes(teacher, work, bytes_per_activation),
        read_bytes=teacher_bytes,
        written_bytes=_snapshot_bytes(teacher) + teacher_bytes,
    )


def _cache_cost(tutor: Shape, work: Work, tutor_bytes: int) -> StageCost:
    return StageCost(
        "cache",
        flops=work.cache_tokens * tutor.forward_flops(work.sequence_length_tokens),
        memory_bytes=tutor_bytes,
        read_bytes=tutor_bytes,
        written_bytes=work.cache_tokens * work.cache_bytes_per_token,
    )


def distill_flops(teacher: Shape, student: Shape, sequence_length_tokens: int) -> float:
    """FLOPs of one distilled token: the teacher forward, the student forward and backward."""
    length = sequence_length_tokens
    return teacher.forward_flops(length) + 3 * student.forward_flops(length)


def _taught_flops(tutor: Shape, student: Shape, work: Work) -> float:
    """FLOPs of one distilled token for one of the processes that share a step."""
    length = work.sequence_length_tokens
    flops = distill_flops(tutor, student, length)
    flops -= tutor.forward_flops(length) if work.has_cache else 0
    flops += student.forward_flops(length) if work.checkpointing else 0
    return flops / work.num_processes


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


def _snapshot_bytes(model: Shape) -> int:
    return NUM_SNAPSHOTS * SNAPSHOT_BYTES_PER_PARAMETER * model.num_parameters


def _running_bytes(model: Shape, work: Work, bytes_per_weight: int) -> int:
    """What a model that is only run forward takes in each process."""
    if not work.is_sharded:
        return model.num_parameters * bytes_per_weight
    num_shared = model.num_parameters - model.num_end_parameters
    num_whole = model.num_end_parameters + WHOLE_LAYERS * model.num_layer_parameters
    return (num_shared // work.num_processes + num_whole) * bytes_per_weight


def _training_bytes(student: Shape, work: Work, bytes_per_activation: int) -> int:
    tokens = work.micro_rows * work.sequence_length_tokens
    chunk = LOSS_CHUNK_TOKENS * LOSS_CHUNK_COPIES * student.sizes["vocab"] * BYTES_FLOAT32
    weights = TRAINING_BYTES_PER_PARAMETER * student.num_parameters
    if work.is_sharded:
        whole = WHOLE_ENDS_IN_TRAINING * student.num_end_parameters
        whole += WHOLE_LAYERS_IN_TRAINING * student.num_layer_parameters
        weights = weights // work.num_processes + BYTES_FLOAT32 * whole
    activations = student.activation_bytes(tokens, bytes_per_activation)
    if work.checkpointing:
        num_layers, hidden = student.sizes["layer"], student.sizes["hidden"]
        activations = activations // num_layers + num_layers * tokens * hidden * bytes_per_activation
    return weights + activations + chunk
