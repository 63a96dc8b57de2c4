"""Records -> tokens. Rows that are too long are left out and named; nothing is cut.

Shapes: P pairs, B rows, S positions, K objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from niwaki.errors import DataError
from niwaki.ground.chat import Chat, Conversation
from niwaki.ground.progress import progress
from niwaki.reward.forms import Skipped
from niwaki.reward.records import Pair, Rating


@dataclass(frozen=True)
class PairTokens:
    """Rendered pairs: conversations [P] with the better answer, and with the worse."""

    pairs: tuple[Pair, ...]
    chosen: tuple[Conversation, ...]
    rejected: tuple[Conversation, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def lengths(self) -> np.ndarray:
        """Tokens of the two answers, [P, 2]."""
        both = zip(self.chosen, self.rejected, strict=True)
        return np.array([[len(c.ids) - c.prompt_end - 1 for c in pair] for pair in both]).reshape(-1, 2)

    def sources(self) -> list[str]:
        """The source of each pair."""
        return [pair.source for pair in self.pairs]

    def with_mean_strength_one(self) -> PairTokens:
        """Strengths divided by their mean, so that a scaled loss has the size of a regular one."""
        mean = float(np.mean([pair.strength for pair in self.pairs]))
        return replace(self, pairs=tuple(replace(p, strength=p.strength / mean) for p in self.pairs))


@dataclass(frozen=True)
class RatingTokens:
    """Rendered answers [B] with labels [B, K], NaN where one is missing."""

    ratings: tuple[Rating, ...]
    conversations: tuple[Conversation, ...]
    labels: np.ndarray
    objectives: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ratings)

    def lengths(self) -> np.ndarray:
        """Tokens of each answer, [B]."""
        return np.array([len(c.ids) - c.prompt_end - 1 for c in self.conversations])


def encode_pairs(
    chat: Chat, pairs: Sequence[Pair], *, max_tokens: int, label: str = "pairs"
) -> tuple[PairTokens, list[Skipped]]:
    """Render both conversations of each pair; a pair with one longer than `max_tokens` is left out.

    Raises:
        DataError: the template damages a row, or every pair is too long.
    """
    kept: list[tuple[Pair, Conversation, Conversation]] = []
    skipped = []
    with progress(f"tokens of {label}", total=len(pairs)) as bar:
        for pair in pairs:
            both = [chat.conversation(pair.prompt, a, row=pair.row) for a in (pair.chosen, pair.rejected)]
            longest = max(len(c.ids) for c in both)
            if longest > max_tokens:
                skipped.append(Skipped(pair.row, f"longer than {max_tokens} tokens"))
            else:
                kept.append((pair, both[0], both[1]))
            bar.advance("")
    _check_some(len(kept), len(pairs), max_tokens)
    columns = list(zip(*kept, strict=True))
    return PairTokens(*(tuple(column) for column in columns)), skipped


def encode_ratings(
    chat: Chat,
    ratings: Sequence[Rating],
    objectives: Sequence[str],
    *,
    max_tokens: int,
    label: str = "ratings",
) -> tuple[RatingTokens, list[Skipped]]:
    """Render each rated answer; labels in the order of `objectives`. Raises DataError as `encode_pairs`."""
    kept: list[tuple[Rating, Conversation]] = []
    skipped = []
    with progress(f"tokens of {label}", total=len(ratings)) as bar:
        for rating in ratings:
            conversation = chat.conversation(rating.prompt, rating.answer, row=rating.row)
            if len(conversation.ids) > max_tokens:
                skipped.append(Skipped(rating.row, f"longer than {max_tokens} tokens"))
            else:
                kept.append((rating, conversation))
            bar.advance("")
    _check_some(len(kept), len(ratings), max_tokens)
    labels = np.array([[r.ratings.get(o, np.nan) for o in objectives] for r, _ in kept], dtype=np.float64)
    return (
        RatingTokens(tuple(r for r, _ in kept), tuple(c for _, c in kept), labels, tuple(objectives)),
        skipped,
    )


def padded(conversations: Sequence[Conversation], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids [B, S], padded on the right, and the index of each row's last token [B]."""
    longest = max(len(c.ids) for c in conversations)
    ids = np.full((len(conversations), longest), pad_id, dtype=np.int64)
    for row, conversation in enumerate(conversations):
        ids[row, : len(conversation.ids)] = conversation.ids
    return torch.from_numpy(ids), torch.tensor([len(c.ids) - 1 for c in conversations])


class Order:
    """Row i of an endless stream. Within a global batch rows go by length, so micro-batches pad little."""

    def __init__(self, lengths: np.ndarray, batch_rows: int, seed: int | None) -> None:
        self.lengths, self.batch_rows, self.seed = lengths, batch_rows, seed
        self._epoch = lru_cache(maxsize=2)(self._shuffled)
        self._batch = lru_cache(maxsize=2)(self._sorted)

    def places(self, start: int, count: int) -> list[int]:
        """Which rows the stream holds at `start` .. `start + count`."""
        return [
            int(self._batch(i // self.batch_rows)[i % self.batch_rows]) for i in range(start, start + count)
        ]

    def _sorted(self, batch: int) -> np.ndarray:
        first = batch * self.batch_rows
        rows = np.array([self._place(i) for i in range(first, first + self.batch_rows)])
        return rows if self.seed is None else rows[np.argsort(-self.lengths[rows], kind="stable")]

    def _place(self, index: int) -> int:
        epoch, place = divmod(index, len(self.lengths))
        return place if self.seed is None else int(self._epoch(epoch)[place])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed or 0, epoch)).permutation(len(self.lengths))


class PairRows:
    """Pairs for `ground.loop.fit`: a row is a pair, and a target.

    Args:
        batch_rows: pairs of one optimiser step.
        seed: orders the pairs anew in every epoch; None keeps their order, as the paper's second stage does.
    """

    def __init__(self, tokens: PairTokens, *, pad_id: int, batch_rows: int, seed: int | None) -> None:
        self.tokens, self.pad_id = tokens, pad_id
        both = zip(tokens.chosen, tokens.rejected, strict=True)
        longest = np.array([max(len(c.ids), len(r.ids)) for c, r in both])
        self._order = Order(longest, batch_rows, seed)

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        """`ids` [2P, S] (chosen, rejected, chosen, ...), `last` [2P], `strength` and `q` [P], `mask` [P]."""
        places = self._order.places(start, count)
        ids, last = padded(
            [c for p in places for c in (self.tokens.chosen[p], self.tokens.rejected[p])], self.pad_id
        )
        pairs = [self.tokens.pairs[p] for p in places]
        return {
            "ids": ids,
            "last": last,
            "strength": torch.tensor([p.strength for p in pairs], dtype=torch.float32),
            "q": torch.tensor([p.q for p in pairs], dtype=torch.float32),
            "mask": torch.ones(count, dtype=torch.bool),
        }


class RatingRows:
    """Rated answers for `ground.loop.fit`: a row is an answer, a target each of its ratings."""

    def __init__(self, tokens: RatingTokens, *, pad_id: int, batch_rows: int, seed: int | None) -> None:
        self.tokens, self.pad_id = tokens, pad_id
        self._order = Order(np.array([len(c.ids) for c in tokens.conversations]), batch_rows, seed)

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        """`ids` [B, S], `last` [B], `labels` [B, K] (0 where missing), `mask` [B, K]."""
        places = self._order.places(start, count)
        ids, last = padded([self.tokens.conversations[p] for p in places], self.pad_id)
        labels = torch.from_numpy(self.tokens.labels[places]).float()
        return {"ids": ids, "last": last, "labels": labels.nan_to_num(), "mask": ~labels.isnan()}


def _check_some(num_kept: int, num_all: int, max_tokens: int) -> None:
    if not num_kept:
        raise DataError(
            f"All {num_all} rows are longer than {max_tokens} tokens.", "Raise `max_tokens`, or shorten them."
        )
