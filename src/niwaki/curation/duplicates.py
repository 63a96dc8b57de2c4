"""Which questions of a long list were asked before, exactly or nearly; the first of them is kept.

Two questions are exact duplicates when their words, numbers, signs and options are the same. They are near
duplicates when they have the same gold answer, the same numbers, and a Jaccard similarity of word 3-grams
(options included) of at least `threshold`, estimated by MinHash (`datasketch`; A. Broder, "On the resemblance
and containment of documents", 1997). Gold and numbers matter: "31 + 5?" is no copy of "31 + 6?".

Memory is bounded: a question costs 24 bytes here, its signature lies in a file, and bands are compared one
after the other by sorting instead of in one large table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.curation.words import gold_text, hashes, ngram_hashes, set_hash, signed_words, word_hash, words
from niwaki.errors import DataError
from niwaki.verify.question import Question

SHINGLE_WORDS = 3
NUM_PERMUTATIONS = 64


@dataclass(frozen=True)
class Duplicate:
    """Question `index` repeats question `of`; `similarity` is 1 for an exact copy."""

    index: int
    of: int
    similarity: float


class Fingerprints:
    """What is remembered of every question; the first ones added are the ones kept."""

    def __init__(self, file: Path, *, near: bool = True) -> None:
        """`file` holds the signatures, if near duplicates are looked for: 256 bytes a question."""
        self._file, self._near = file, near
        self._exact: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._count = 0
        self._writer = file.open("wb") if near else None

    def add(self, exact: np.ndarray, numbers: np.ndarray, signatures: np.ndarray | None) -> None:
        """Remember the `fingerprint`s of more questions: uint64 [n], uint64 [n], uint32 [n, permutations]."""
        self._exact.append(exact)
        self._numbers.append(numbers)
        self._count += len(exact)
        if self._writer is not None:
            assert signatures is not None
            self._writer.write(signatures.astype(np.uint32).tobytes())

    def duplicates(self, *, threshold: float = 0.8) -> Iterator[Duplicate]:
        """Every question that repeats an earlier one which is itself kept, in order."""
        exact = np.concatenate(self._exact) if self._exact else np.empty(0, np.uint64)
        keeper = _first_of_equals(exact)
        similarity = np.where(keeper != np.arange(len(keeper)), 1.0, 0.0).astype(np.float32)
        if self._near and self._count:
            assert self._writer is not None
            self._writer.flush()
            self._near_pass(keeper, similarity, threshold)
        for index in np.flatnonzero(keeper != np.arange(len(keeper))):
            yield Duplicate(int(index), int(keeper[index]), float(similarity[index]))

    def close(self) -> None:
        """Close and remove the file of signatures."""
        if self._writer is not None:
            self._writer.close()
            self._file.unlink(missing_ok=True)

    def _near_pass(self, keeper: np.ndarray, similarity: np.ndarray, threshold: float) -> None:
        signatures = np.memmap(self._file, np.uint32, "r", shape=(self._count, NUM_PERMUTATIONS))
        numbers = np.concatenate(self._numbers)
        num_bands, band_rows = _bands(threshold)
        places = np.flatnonzero(keeper == np.arange(len(keeper)))  # exact copies need no second look
        pairs = [
            _candidates(signatures[places, start : start + band_rows], numbers[places], places)
            for start in range(0, num_bands * band_rows, band_rows)
        ]
        candidates = np.unique(np.concatenate(pairs), axis=0)
        for later, earlier in candidates:
            if keeper[later] != later:
                continue
            first = keeper[earlier]
            alike = float((signatures[later] == signatures[first]).mean())
            if first != later and alike >= threshold and numbers[first] == numbers[later]:
                keeper[later], similarity[later] = first, alike
        # what repeated a question that turned out to be a near copy itself repeats that one's original
        for index in np.flatnonzero(keeper[keeper] != keeper):
            keeper[index] = keeper[keeper[index]]


def fingerprint(question: Question, *, near: bool = True) -> tuple[int, int, np.ndarray | None]:
    """Hash of all words and signs, hash of gold and numbers, MinHash signature uint32 [NUM_PERMUTATIONS]."""
    asked = signed_words(question.question)
    options = question.options or ()
    exact = (word_hash(" ".join(asked)) + set_hash(options)) % 2**64
    said = words(" ".join([question.question, *sorted(options)]))
    numbers = word_hash(" ".join([gold_text(question), *sorted(filter(str.isdecimal, said))]))
    return exact, numbers, _signature(said) if near else None


def _signature(said: list[str]) -> np.ndarray:
    shingles = ngram_hashes(hashes(said), min(SHINGLE_WORDS, max(len(said), 1)))
    sketch = _empty_sketch().copy()
    sketch.update_batch((shingles >> np.uint64(32)).tolist())
    signature: np.ndarray = sketch.hashvalues
    return signature


@lru_cache(maxsize=1)
def _empty_sketch() -> Any:
    try:
        from datasketch import MinHash
    except ImportError:
        raise DataError(
            "Near duplicates are looked for with datasketch, which is not installed.",
            "pip install 'niwaki[reason]', or set near_duplicates: null.",
        ) from None
    return MinHash(num_perm=NUM_PERMUTATIONS, hashfunc=int, scheme="affine32")


def _first_of_equals(values: np.ndarray) -> np.ndarray:
    """For every place the first place with an equal value: int64 [values]."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows of a band): as many rows as still bring 99% of the pairs at the threshold together."""
    for rows in range(NUM_PERMUTATIONS, 1, -1):
        bands = NUM_PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= 0.99:
            return bands, rows
    return NUM_PERMUTATIONS, 1


def _candidates(band: np.ndarray, numbers: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Pairs (later, earlier) that agree in a band and in their numbers: int64 [pairs, 2].

    Of many that agree each is paired with the first and with the one before it.
    """
    mixed = ngram_hashes(np.concatenate([band.astype(np.uint64).T, numbers[None]]).T.ravel(), 1)
    width = band.shape[1] + 1
    keys = np.zeros(len(places), np.uint64)
    for column in range(width):
        keys = (keys ^ mixed[column::width]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(31)
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
    first = order[np.repeat(begins, np.diff(np.r_[begins, len(order)]))]
    previous = np.r_[order[:1], order[:-1]]
    later = np.flatnonzero(first != order)
    pairs = np.concatenate(
        [np.stack([order[later], first[later]], 1), np.stack([order[later], previous[later]], 1)]
    )
    return places[pairs]
