"""Try every candidate shape and rank them.

Minitron (arXiv 2407.14679, section 2.3) prunes each candidate, distils it for about 1.8B tokens and ranks by
loss; rankings move until about step 300 (its Figure 9), so a ranking without training is a cheap guess.
What a trial does is the caller's: `choose` takes it as a function. `halving.halve` does the same and stops
the worse candidates early.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from niwaki.errors import EvaluationError
from niwaki.pruning.trial import Trial, append, best_first, check, different, read

_CLOSE = 0.03


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
    shapes = different(candidates)
    done = read(trials_file, shapes)
    for shape in shapes:
        if any(trial.sizes == shape for trial in done):
            continue
        trial = rank(shape)
        check(trial, shape)
        done.append(trial)
        append(trials_file, trial)
    if len({trial.loss_after is None for trial in done}) > 1:
        raise EvaluationError("Some candidates were trained and some not.", "Train all of them or none.")
    choice = Choice(best_first(done))
    if choice.undecided:
        warnings.warn(
            f"The best {len(choice.undecided)} untrained candidates lie within {_CLOSE:.0%} of each other in "
            "loss; such rankings flip after training. Rank with a short distillation to decide.",
            stacklevel=2,
        )
    return choice
