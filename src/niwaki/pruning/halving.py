"""Successive halving: every candidate trains for a short while, and the worse half stops; the rest train on.

Rungs are steps of one and the same training: a survivor goes on from where it was, with the learning rates of
the full trial, so its curve is the one that it would have had alone. Jamieson and Talwalkar, arXiv
1502.07943, with a reduction factor of 2. What a trial does is the caller's, as in `choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from niwaki.errors import EvaluationError
from niwaki.pruning.choose import Choice
from niwaki.pruning.trial import Trial, append, best_first, check, different, read

Sizes = dict[str, int]


def rung_steps(num_steps: int, halvings: int, *, every_steps: int) -> tuple[int, ...]:
    """The steps at which halves stop, and the end: num_steps / 2^halvings, ..., num_steps / 2, num_steps.

    All but the end are moved to the nearest multiple of `every_steps`, where losses are recorded anyway.
    """
    wanted = [num_steps / 2**halving for halving in range(halvings, 0, -1)]
    rungs = [max(1, round(step / every_steps)) * every_steps for step in wanted]
    return tuple(sorted({step for step in rungs if step < num_steps} | {num_steps}))


def field_sizes(num_candidates: int, num_rungs: int) -> list[int]:
    """How many candidates train up to each rung; the search ends when one is left."""
    fields = [num_candidates]
    while len(fields) < num_rungs and _survivors(fields[-1]) > 1:
        fields.append(_survivors(fields[-1]))
    return fields


def total_steps(num_candidates: int, rungs: Sequence[int]) -> int:
    """Steps of all trials together."""
    fields = field_sizes(num_candidates, len(rungs))
    stretches = [rung - before for before, rung in zip((0, *rungs), rungs, strict=False)]
    return sum(field * stretch for field, stretch in zip(fields, stretches, strict=False))


def halve(
    candidates: Sequence[Mapping[str, int]],
    rank: Callable[[Sizes, int, Trial | None], Trial],
    drop: Callable[[Sizes], None],
    *,
    rungs: Sequence[int],
    trials_file: Path | None = None,
) -> Choice:
    """Rank `candidates` (axis -> size), stopping the worse half of the field at every rung but the last.

    A candidate is stopped as soon as enough others are ahead of it at the same step, so no more than the
    survivors and one more are kept at any time. An odd field keeps the larger half. Losses at different steps
    are never compared: the longer a candidate trained, the better its place.

    Args:
        rank: trains a shape up to a step, going on from the trial it is given (None: from the start).
        drop: what is kept of a shape for going on is no longer needed.
        rungs: steps, ascending; the last is the full trial.
        trials_file: JSON lines; a rerun goes on where it ends, and ends with the same bytes.

    Raises:
        EvaluationError: a loss is not finite, or a trial is of another shape or step.
        RunError: the trials file is damaged or holds other candidates.
    """
    shapes = different(candidates)
    log = read(trials_file, shapes)
    latest: dict[int, Trial] = {}
    fields = field_sizes(len(shapes), len(rungs))
    field: Sequence[int] = range(len(shapes))
    for until_step, num_survivors in zip(rungs, [*fields[1:], fields[-1]], strict=False):
        ahead: list[int] = []
        for number in field:
            trial = _logged(log, shapes[number], until_step)
            if trial is None:
                trial = rank(shapes[number], until_step, latest.get(number))
                _check_step(trial, shapes[number], until_step)
                append(trials_file, trial)
            latest[number] = trial
            ahead = sorted([*ahead, number], key=lambda each: latest[each].loss)
            for beaten in ahead[num_survivors:]:
                latest[beaten] = _stopped(latest[beaten], num_survivors, len(field))
                if latest[beaten] not in log:
                    append(trials_file, latest[beaten])
                drop(shapes[beaten])
            ahead = ahead[:num_survivors]
        field = sorted(ahead)
    return Choice(best_first([latest[number] for number in range(len(shapes))]))


def _survivors(field: int) -> int:
    return -(-field // 2)


def _logged(log: Sequence[Trial], shape: Sizes, step: int) -> Trial | None:
    return next((t for t in log if t.sizes == shape and t.num_steps == step and t.stopped is None), None)


def _check_step(trial: Trial, shape: Sizes, step: int) -> None:
    check(trial, shape)
    if trial.num_steps != step:
        raise EvaluationError(
            f"The trial of {shape} trained {trial.num_steps} steps, not {step}.",
            "Make `rank` train up to the step it is given.",
        )


def _stopped(trial: Trial, num_ahead: int, field: int) -> Trial:
    why = f"{num_ahead} of {field} had less than its loss of {trial.loss:.4f} at step {trial.num_steps}"
    return replace(trial, stopped=why)
