"""Candidate numbers in as few whole bytes as they come: base-C digits, as many to a word as fit.

A word is one byte or eight, whichever holds more digits for its size, and one byte where they are equal:
2:4 has three base-6 digits in a byte (0.667 bit per weight; the bound is 0.646), 1:4 four in a byte (0.5),
4:8 ten base-70 digits in eight bytes (0.8). Digit 0 is the lowest. The last word is filled up with zeros.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from niwaki.errors import CheckpointError
from niwaki.masks.patterns import Pattern

_BYTE, _WORD = 1, 8
_BLOCK_WORDS = 2**18


@dataclass(frozen=True)
class Packing:
    """How the candidate numbers of a pattern lie in bytes."""

    pattern: Pattern

    @cached_property
    def word_bytes(self) -> int:
        """Bytes of one word: 1 or 8."""
        in_words, in_bytes = self._digits(_WORD), self._digits(_BYTE)
        return _WORD if in_words > _WORD * in_bytes else _BYTE

    @cached_property
    def digits(self) -> int:
        """Digits of one word."""
        return self._digits(self.word_bytes)

    @property
    def bits_per_weight(self) -> float:
        """What the packed mask takes, but for the rest of the last word."""
        return 8 * self.word_bytes / (self.digits * self.pattern.group)

    def num_bytes(self, num_groups: int) -> int:
        """Bytes of so many packed numbers."""
        return -(-num_groups // self.digits) * self.word_bytes

    def pack(self, numbers: Tensor) -> Tensor:
        """uint8 [bytes] of candidate numbers, uint8 [G]."""
        given = numbers.cpu().numpy()
        whole = len(given) // self.digits
        packed = np.empty(self.num_bytes(len(given)) // self.word_bytes, dtype=self._dtype)
        self._join(given[: whole * self.digits].reshape(whole, self.digits), packed[:whole])
        if rest := given[whole * self.digits :].tolist():
            last = np.zeros((1, self.digits), dtype=np.uint8)
            last[0, : len(rest)] = rest
            self._join(last, packed[whole:])
        return torch.from_numpy(packed.view(np.uint8))

    def unpack(self, packed: Tensor, num_groups: int, *, name: str) -> Tensor:
        """Candidate numbers, uint8 [G], of packed bytes.

        Raises:
            CheckpointError: another number of bytes than G numbers take, or a word that is none of theirs.
        """
        if packed.numel() != self.num_bytes(num_groups):
            raise CheckpointError(
                f"{name}: {packed.numel():,} packed bytes; {num_groups:,} groups of {self.pattern} take "
                f"{self.num_bytes(num_groups):,}.",
                "Copy or download the mask again, or use it with the model that it was made for.",
            )
        words = packed.cpu().numpy().view(self._dtype)
        if len(words) and int(words.max()) >= self.pattern.num_candidates**self.digits:
            raise CheckpointError(
                f"{name}: holds bytes that stand for no mask of pattern {self.pattern}.",
                "Copy or download the mask again; it is damaged.",
            )
        numbers = np.empty((len(words), self.digits), dtype=np.uint8)
        for first in range(0, len(words), _BLOCK_WORDS):
            self._split(words[first : first + _BLOCK_WORDS], numbers[first : first + _BLOCK_WORDS])
        return torch.from_numpy(numbers.reshape(-1)[:num_groups])

    def _digits(self, num_bytes: int) -> int:
        digits = 0
        while self.pattern.num_candidates ** (digits + 1) <= 256**num_bytes:
            digits += 1
        return digits

    @property
    def _dtype(self) -> Any:
        return np.dtype("u1") if self.word_bytes == _BYTE else np.dtype("<u8")

    def _join(self, digits: np.ndarray, out: np.ndarray) -> None:
        for first in range(0, len(digits), _BLOCK_WORDS):
            block = digits[first : first + _BLOCK_WORDS]
            words = block[:, -1].astype(self._dtype)
            for place in range(self.digits - 2, -1, -1):
                words *= self._dtype.type(self.pattern.num_candidates)
                words += block[:, place]
            out[first : first + _BLOCK_WORDS] = words

    def _split(self, words: np.ndarray, out: np.ndarray) -> None:
        base = self._dtype.type(self.pattern.num_candidates)
        rest = words
        for place in range(self.digits):
            above = rest // base
            out[:, place] = rest - above * base
            rest = above


def bits(pattern: Pattern, numbers: Tensor) -> np.ndarray:
    """uint8: the mask of candidate numbers [G] as bits in row-major order, the first in the highest bit.

    That is `np.packbits` of the flattened mask, the form of the published files (maskllm 7.1).
    """
    rows = pattern.candidates_CM.numpy()
    if 8 % pattern.group == 0:
        codes = _bytes_of_groups(pattern)
        given = numbers.cpu().numpy()
        given = np.pad(given, (0, -len(given) % (8 // pattern.group))).reshape(-1, 8 // pattern.group)
        runs = given[:, 0]
        for place in range(1, given.shape[1]):
            runs = runs * np.uint8(pattern.num_candidates) + given[:, place]
        packed = codes[runs]
        if spare := 8 * len(packed) - len(numbers) * pattern.group:
            packed[-1] &= np.uint8((0xFF << spare) & 0xFF)
        return packed
    return np.packbits(rows[numbers.cpu().numpy()].reshape(-1))


@cache
def _bytes_of_groups(pattern: Pattern) -> np.ndarray:
    """The byte that a run of groups makes, by their candidate numbers as digits, the first the highest."""
    runs = itertools.product(range(pattern.num_candidates), repeat=8 // pattern.group)
    rows = pattern.candidates_CM.numpy()
    return np.packbits(np.stack([rows[list(run)].reshape(-1) for run in runs]), axis=1)[:, 0]


class MaskHash:
    """SHA-256 of unpacked masks: of each tensor, in the order added, its name and its bits."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, pattern: Pattern, numbers: Tensor) -> None:
        """Add one tensor's mask, candidate numbers [G]."""
        self._digest.update(name.encode() + b"\0")
        for block in blocks(numbers):
            self._digest.update(bits(pattern, block).data)

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._digest.hexdigest()


def blocks(numbers: Tensor) -> Iterator[Tensor]:
    """Pieces of candidate numbers whose bits fill whole bytes."""
    yield from numbers.split(_BLOCK_WORDS)
