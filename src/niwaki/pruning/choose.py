"""Try every candidate shape and rank them.

Minitron (arXiv 2407.14679, section 2.3) prunes each candidate, distils it for about 1.8B tokens and ranks by
loss; rankings move until about step 300 (its Figure 9), so a ranking without training is a cheap guess.
What a trial does is the caller's: `choose` takes it as a function.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from niwaki.errors import EvaluationError, RunError

_CLOSE = 0.03


@dataclass(frozen=True)
class Trial:
    """What came of one candidate. Losses are held-out, in nats per token; `loss_after` is None untrained.

    `loss_curve` lists (step, training loss).
    """

    sizes: dict[str, int]
    num_parameters: int
    loss_before: float
    loss_after: float | None = None
    loss_curve: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    @property
    def loss(self) -> float:
        """The loss to rank by: after training where there was any."""
        return self.loss_before if self.loss_after is None else self.loss_after


@dataclass(frozen=True)
class Choice:
    """Trials, best first."""

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial of least loss."""
        return self.trials[0]

    @property
    def undecided(self) -> tuple[Trial, ...]:
        """Untrained trials, the best among them, that lie too close to its loss to be told apart."""
        if self.best.loss_after is not None:
            return ()
        close = tuple(trial for trial in self.trials if trial.loss <= self.best.loss * (1 + _CLOSE))
        return close if len(close) > 1 else ()

    def save(self, path: Path) -> None:
        """Write candidates.json: the trials in order and how many of the first are undecided."""
        record = {"trials": [asdict(trial) for trial in self.trials], "num_undecided": len(self.undecided)}
        temporary = path.with_name(path.name + ".partial")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def choose(
    candidates: Sequence[Mapping[str, int]],
    rank: Callable[[dict[str, int]], Trial],
    *,
    trials_file: Path | None = None,
) -> Choice:
    """Run `rank` on every candidate (axis -> size) and order the trials by loss, ties by position.

    `trials_file` (JSON lines, one trial each) keeps every finished trial; a rerun skips those and repeats
    one that was cut short. Warns when untrained losses are too close to the best to decide: published
    rankings of equal-size candidates have flipped after training.

    Raises EvaluationError for a loss that is not finite, or when only some trials were trained; RunError for
    a trials file that is damaged or holds other candidates.
    """
    shapes = [dict(candidate) for candidate in candidates]
    if not shapes or any(shape in shapes[:position] for position, shape in enumerate(shapes)):
        raise EvaluationError(f"{len(shapes)} candidates, none or some alike.", "Give different shapes.")
    done = _read(trials_file) if trials_file is not None and trials_file.exists() else []
    if strange := [trial.sizes for trial in done if trial.sizes not in shapes]:
        raise RunError(
            f"{trials_file} holds a trial of {strange[0]}, which is no candidate here.",
            "Remove the file to start over, or repeat the run it belongs to.",
        )
    for shape in shapes:
        if any(trial.sizes == shape for trial in done):
            continue
        trial = rank(shape)
        _check(trial, shape)
        done.append(trial)
        if trials_file is not None:
            _append(trials_file, trial)
    if len({trial.loss_after is None for trial in done}) > 1:
        raise EvaluationError("Some candidates were trained and some not.", "Train all of them or none.")
    choice = Choice(tuple(sorted(done, key=lambda trial: trial.loss)))
    if choice.undecided:
        warnings.warn(
            f"The best {len(choice.undecided)} untrained candidates lie within {_CLOSE:.0%} of each other in "
            "loss; such rankings flip after training. Rank with a short distillation to decide.",
            stacklevel=2,
        )
    return choice


def _check(trial: Trial, shape: dict[str, int]) -> None:
    if trial.sizes != shape:
        raise EvaluationError(
            f"The trial of {shape} reports sizes {trial.sizes}.", "Make `rank` try the shape it is given."
        )
    if not math.isfinite(trial.loss):
        raise EvaluationError(
            f"The trial of {shape} has loss {trial.loss}.", "Look at its data, dtype and learning rate."
        )


def _append(path: Path, trial: Trial) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(trial)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> list[Trial]:
    """Finished trials; a last line without its end was cut short and is removed from the file."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        os.truncate(path, len(whole.encode()))
    try:
        return [_trial(json.loads(line)) for line in whole.splitlines()]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged: {error}.", "Remove it to run the trials again.") from error


def _trial(record: dict[str, Any]) -> Trial:
    curve = tuple((int(step), float(loss)) for step, loss in record.pop("loss_curve"))
    return Trial(loss_curve=curve, **record)
