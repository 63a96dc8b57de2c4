"""Which questions of a long list were asked before, exactly or nearly; the first of them is kept.

Two questions are exact duplicates when their words, signs (numbers, operators, brackets) and options are the
same. They are near duplicates when they have the same gold answer, the same signs in the same order, and a
Jaccard similarity of word 3-grams (options included; a 3-gram that comes twice counts twice) of at least
`threshold`. Gold and signs matter: "31 + 5?" is no copy of "31 + 6?", nor "(2 + 3) * 4" of "2 + (3 * 4)".
MinHash finds the candidates (`datasketch`; A. Broder, "On the resemblance and containment of documents",
1997); the similarity of each is then computed, not estimated.

Memory is bounded: a question costs 32 bytes here, its signature and 3-grams lie in files, and bands are
compared one after the other by sorting instead of in one large table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.curation.words import gold_text, hashes, ngram_hashes, set_hash, signs, word_hash, words
from niwaki.errors import DataError
from niwaki.verify.question import Question

SHINGLE_WORDS = 3
NUM_PERMUTATIONS = 64
_NEARLY_ONE = 0.999  # 1 is an exact copy; the same 3-grams need not be


@dataclass(frozen=True)
class Duplicate:
    """Question `index` repeats question `of`; `similarity` is 1 for an exact copy."""

    index: int
    of: int
    similarity: float


@dataclass(frozen=True)
class Fingerprint:
    """What is remembered of a question.

    `exact`: hash of all words, signs and options. `strict`: hash of gold and signs, which near copies share.
    `signature`: uint32 [NUM_PERMUTATIONS]. `shingles`: uint32, sorted; both empty without near duplicates.
    """

    exact: int
    strict: int
    signature: np.ndarray
    shingles: np.ndarray


class Fingerprints:
    """The fingerprints of a list of questions; of copies the first one added is kept."""

    def __init__(self, folder: Path, *, near: bool = True) -> None:
        """`folder` holds signatures and 3-grams, for near duplicates: some 600 bytes a question."""
        self._near = near
        self._exact: list[np.ndarray] = []
        self._strict: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._count = 0
        self._paths = (folder / "signatures.bin", folder / "shingles.bin")
        self._files = [path.open("wb") for path in self._paths] if near else []

    def add(
        self,
        exact: np.ndarray,
        strict: np.ndarray,
        signatures: np.ndarray,
        lengths: np.ndarray,
        shingles: np.ndarray,
    ) -> None:
        """Remember more questions: uint64 [n], uint64 [n], uint32 [n, permutations], their numbers of 3-grams
        [n] and all of these one after the other, uint32."""
        self._exact.append(exact)
        self._strict.append(strict)
        self._lengths.append(lengths.astype(np.int64))
        self._count += len(exact)
        for file, values in zip(self._files, (signatures, shingles), strict=False):
            file.write(values.astype(np.uint32).tobytes())

    def duplicates(self, *, threshold: float = 0.8) -> Iterator[Duplicate]:
        """Every question that repeats an earlier one which is itself kept, in order."""
        exact = np.concatenate(self._exact) if self._exact else np.empty(0, np.uint64)
        keeper = _first_of_equals(exact)
        similarity = np.where(keeper != np.arange(len(keeper)), 1.0, 0.0).astype(np.float32)
        if self._near and self._count:
            for file in self._files:
                file.flush()
            self._near_pass(keeper, similarity, threshold)
        for index in np.flatnonzero(keeper != np.arange(len(keeper))):
            yield Duplicate(int(index), int(keeper[index]), float(similarity[index]))

    def close(self) -> None:
        """Close and remove the files."""
        for file, path in zip(self._files, self._paths, strict=False):
            file.close()
            path.unlink(missing_ok=True)

    def _near_pass(self, keeper: np.ndarray, similarity: np.ndarray, threshold: float) -> None:
        signatures = np.memmap(self._paths[0], np.uint32, "r", shape=(self._count, NUM_PERMUTATIONS))
        strict = np.concatenate(self._strict)
        ends = np.cumsum(np.concatenate(self._lengths))
        if not ends[-1]:
            return
        shingles = np.memmap(self._paths[1], np.uint32, "r", shape=(int(ends[-1]),))
        num_bands, band_rows = _bands(threshold)
        places = np.flatnonzero(keeper == np.arange(len(keeper)))  # exact copies need no second look
        pairs = [
            _candidates(signatures[places, start : start + band_rows], strict[places], places)
            for start in range(0, num_bands * band_rows, band_rows)
        ]
        for later, earlier in np.unique(np.concatenate(pairs), axis=0):
            if keeper[later] != later:
                continue
            first = keeper[earlier]
            if first == later or strict[first] != strict[later]:
                continue
            alike = _jaccard(*(shingles[ends[one - 1] if one else 0 : ends[one]] for one in (first, later)))
            if alike >= threshold:
                keeper[later], similarity[later] = first, min(alike, _NEARLY_ONE)
        # what repeated a question that turned out to be a near copy itself repeats that one's original
        for index in np.flatnonzero(keeper[keeper] != keeper):
            keeper[index] = keeper[keeper[index]]


def fingerprint(question: Question, *, near: bool = True) -> Fingerprint:
    """The fingerprint of a question."""
    options = question.options or ()
    asked, strict = words(question.question), signs(question.question)
    exact = (word_hash(" ".join([*asked, *strict])) + set_hash(options)) % 2**64
    offered = sorted(options)
    strict = [gold_text(question), *strict, *(sign for option in offered for sign in signs(option))]
    if not near:
        nothing = np.empty(0, np.uint32)
        return Fingerprint(exact, word_hash(" ".join(strict)), nothing, nothing)
    shingles = _shingles([*asked, *words(" ".join(offered))])
    return Fingerprint(exact, word_hash(" ".join(strict)), _signature(shingles), shingles)


def _shingles(said: list[str]) -> np.ndarray:
    """Hashes of the word 3-grams, sorted. The second time that one comes, it is another."""
    grams = np.sort(ngram_hashes(hashes(said), min(SHINGLE_WORDS, max(len(said), 1))))
    if not len(grams):
        return np.empty(0, np.uint32)
    is_first = np.ones(len(grams), bool)
    is_first[1:] = grams[1:] != grams[:-1]
    if not is_first.all():
        places = np.arange(len(grams))
        times = places - np.maximum.accumulate(np.where(is_first, places, 0))
        grams ^= times.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    return np.unique((grams >> np.uint64(32)).astype(np.uint32))


def _signature(shingles: np.ndarray) -> np.ndarray:
    sketch = _empty_sketch().copy()
    sketch.update_batch(shingles.tolist())
    signature: np.ndarray = sketch.hashvalues.astype(np.uint32)
    return signature


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(len(one) + len(other) - shared, 1)


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


def _candidates(band: np.ndarray, strict: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Pairs (later, earlier) that agree in a band and in gold and signs: int64 [pairs, 2].

    Of many that agree each is paired with the first and with the one before it.
    """
    mixed = ngram_hashes(np.concatenate([band.astype(np.uint64).T, strict[None]]).T.ravel(), 1)
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
