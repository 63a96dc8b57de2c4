"""Which question is asked when: a function of the place alone, so that a resumed run asks the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from niwaki.verify.question import Question


class Order:
    """Questions in the order of the file, and in a new seeded order each time the file has been seen.

    The first pass keeps the order, because the blend has already shuffled it to its shares.
    """

    def __init__(self, questions: Sequence[Question], *, seed: int) -> None:
        self._questions, self._seed = questions, seed
        self._later: tuple[int, np.ndarray] = (0, np.arange(len(questions)))

    def __getitem__(self, place: int) -> Question:
        turn, index = divmod(place, len(self._questions))
        if turn != self._later[0]:
            shuffled = np.random.default_rng((self._seed, turn)).permutation(len(self._questions))
            self._later = (turn, shuffled if turn else np.arange(len(self._questions)))
        return self._questions[int(self._later[1][index])]
