"""Rows of packed tokens, by number.

A row is `sequence_length + 1` consecutive tokens: inputs and, one to the right, their targets. Row i of
the endless shuffled stream depends on (seed, i) alone, so to resume is to go on at row i, and the global
batch is the same on any number of processes.

Shapes: B rows, S positions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from niwaki.errors import DataError

Batch = dict[str, Tensor]


class Rows:
    """An endless, seeded stream of rows over one array of tokens.

    Args:
        tokens: [N] integer array, possibly a memory map.
        sequence_length: S, in tokens.
        seed: orders the rows anew in every epoch; None keeps the order of the text.

    Raises:
        DataError: fewer tokens than one row needs.
    """

    def __init__(self, tokens: np.ndarray, *, sequence_length: int, seed: int | None = None) -> None:
        self.num_rows = (len(tokens) - 1) // sequence_length
        if self.num_rows < 1:
            raise DataError(
                f"{len(tokens)} tokens are too few for one row of {sequence_length} tokens and a target.",
                "Give more text, or a smaller `sequence_length_tokens`.",
            )
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def take(self, start: int, count: int) -> Batch:
        """Rows start .. start + count: `inputs` [B,S] int64, `targets` [B,S] int64, `mask` [B,S] bool."""
        rows = np.stack([self._row(i) for i in range(start, start + count)]).astype(np.int64)
        inputs, targets = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])
        return {"inputs": inputs, "targets": targets, "mask": torch.ones_like(inputs, dtype=torch.bool)}

    def place(self, index: int) -> int:
        """Where row `index` of the stream lies in the text: it is the text's row of this number, from 0."""
        epoch, place = divmod(index, self.num_rows)
        return place if self.seed is None else int(self._order(epoch)[place])

    def _row(self, index: int) -> np.ndarray:
        first = self.place(index) * self.sequence_length
        return self.tokens[first : first + self.sequence_length + 1]

    def _shuffled(self, epoch: int) -> np.ndarray:
        assert self.seed is not None
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
