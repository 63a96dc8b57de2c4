"""What came of trying a candidate, and the JSON-lines file that keeps it.

The file only grows: a trial that goes on, or is stopped, gets a further line, and the last line of a shape is
its present state.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from niwaki.errors import EvaluationError, RunError
from niwaki.ground import processes
from niwaki.ground.folder import writing_to


@dataclass(frozen=True)
class Trial:
    """What came of one candidate. Losses are held-out, in nats per token; `loss_after` is None untrained.

    `loss_curve` lists (step, held-out loss) along the training of `num_steps` steps. `stopped` says why there
    were no more of them where others had more.
    """

    sizes: dict[str, int]
    num_parameters: int
    loss_before: float
    loss_after: float | None = None
    loss_curve: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    num_steps: int = 0
    stopped: str | None = None

    @property
    def loss(self) -> float:
        """The loss to rank by: after training where there was any."""
        return self.loss_before if self.loss_after is None else self.loss_after


def different(candidates: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """The candidates as dicts.

    Raises:
        EvaluationError: there are none, or two are alike.
    """
    shapes = [dict(candidate) for candidate in candidates]
    if not shapes or any(shape in shapes[:position] for position, shape in enumerate(shapes)):
        raise EvaluationError(f"{len(shapes)} candidates, none or some alike.", "Give different shapes.")
    return shapes


def check(trial: Trial, shape: Mapping[str, int]) -> None:
    """Refuse a trial of another shape, or one whose loss is not finite.

    Raises:
        EvaluationError: says which.
    """
    if trial.sizes != shape:
        raise EvaluationError(
            f"The trial of {shape} reports sizes {trial.sizes}.", "Make `rank` try the shape it is given."
        )
    if not math.isfinite(trial.loss):
        raise EvaluationError(
            f"The trial of {shape} has loss {trial.loss}.", "Look at its data, dtype and learning rate."
        )


def best_first(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Trials by loss, the longer trained before the shorter, ties by position."""
    return tuple(sorted(trials, key=lambda trial: (-trial.num_steps, trial.loss)))


def append(path: Path | None, trial: Trial) -> None:
    """Add a line to the file and flush it to disk; nothing where there is no file. Only the main process."""
    if path is None or not processes.is_main():
        return
    with writing_to(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(trial)) + "\n")
        file.flush()
        os.fsync(file.fileno())


@processes.main_only
def read(path: Path | None, shapes: Sequence[Mapping[str, int]]) -> list[Trial]:
    """Every line so far; a last line without its end was cut short and is removed from the file.

    Collective: the main process reads for all.

    Raises:
        RunError: the file is damaged, or holds other shapes.
    """
    if path is None or not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        os.truncate(path, len(whole.encode()))
    try:
        trials = [_trial(json.loads(line)) for line in whole.splitlines()]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged: {error}.", "Remove it to run the trials again.") from error
    if strange := [trial.sizes for trial in trials if trial.sizes not in shapes]:
        raise RunError(
            f"{path} holds a trial of {strange[0]}, which is no candidate here.",
            "Remove the file to start over, or repeat the run it belongs to.",
        )
    return trials


def _trial(record: dict[str, Any]) -> Trial:
    curve = tuple((int(step), float(loss)) for step, loss in record.pop("loss_curve"))
    return Trial(loss_curve=curve, **record)
