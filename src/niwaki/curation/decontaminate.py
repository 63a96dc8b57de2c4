"""Does a question repeat an item of a benchmark? With the evidence; planted.py measures precision and recall.

In: the benchmarks' questions, and one question at a time. The question alone is compared, in words without
markup (words.py), never the instructions around it. Three rules, by the length of the benchmark's item:

- n words or more (13 by default): runs of n words that no other item of the benchmarks has, a quarter of all
  such runs of the item, and three quarters of its numbers. A run that several items share is boilerplate
  ("express your answer as a common fraction ..."), and proves nothing; nor does a text with other numbers.
- fewer, or nothing but boilerplate: all words, signs and brackets of the item in a row. So little may be
  chance, so the answers must agree as well: the right one, or half of the options. Of open ones 8 words do.
- fewer than 5, and not two numbers: the whole question, or all options, must be the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from niwaki.curation.words import bracketed_words, gold_text, hashes, ngram_hashes, signed_words, words
from niwaki.verify.question import Question

NGRAM_WORDS = 13
LEAST_SHARE = 0.25
LEAST_NUMBERS = 0.75
_FEWEST_CONTAINED = 5
_ENOUGH_ALONE = 8


@dataclass(frozen=True)
class Hit:
    """Evidence that a question repeats an item: the rule, the words found, and their share of the item."""

    benchmark: str
    item: str
    rule: str
    words: str
    share: float


@dataclass(frozen=True)
class _Item:
    benchmark: str
    id: str
    words: tuple[str, ...]
    signed: tuple[str, ...]
    bracketed: tuple[str, ...]
    gold: str
    options: tuple[str, ...]


class Benchmarks:
    """The items of all benchmarks, ready to be found again."""

    def __init__(self, items: Iterable[tuple[str, Question]], *, ngram_words: int = NGRAM_WORDS) -> None:
        """`items`: name of the benchmark and question. Items that say the same count once."""
        self._n = ngram_words
        distinct: dict[tuple[str, ...], _Item] = {}
        self.num_items: dict[str, int] = {}
        for name, question in items:
            self.num_items[name] = self.num_items.get(name, 0) + 1
            item = _item(name, question)
            distinct.setdefault((*item.signed, "", *item.bracketed, "", item.gold), item)
        self._items = list(distinct.values())
        long = [(place, item) for place, item in enumerate(self._items) if len(item.words) >= ngram_words]
        self._ngrams, self._ngram_items, self.num_boilerplate = _index(long, ngram_words)
        self._num_ngrams = np.bincount(self._ngram_items, minlength=len(self._items))
        self._by_start: dict[int, list[int]] = {}  # an item is looked up by its first five words
        self._key_lengths: set[int] = set()
        for place, item in enumerate(self._items):
            length = min(len(item.words), _FEWEST_CONTAINED)
            if length:
                self._key_lengths.add(length)
                key = int(ngram_hashes(hashes(item.words[:length]), length)[0])
                self._by_start.setdefault(key, []).append(place)

    def find(self, question: Question) -> Hit | None:
        """The item that the question repeats, None when there is none."""
        said = words(question.question)
        of_words = hashes(said)
        return self._find_runs(said, of_words) or self._find_whole(question, said, of_words)

    def _find_runs(self, said: list[str], of_words: np.ndarray) -> Hit | None:
        grams = ngram_hashes(of_words, self._n)
        if not len(grams) or not len(self._ngrams):
            return None
        places = np.minimum(np.searchsorted(self._ngrams, grams), len(self._ngrams) - 1)
        found = np.flatnonzero(self._ngrams[places] == grams)
        if not len(found):
            return None
        items = self._ngram_items[places[found]]
        best = int(np.bincount(items).argmax())
        item = self._items[best]
        runs = found[items == best]
        share = len(set(grams[runs].tolist())) / int(self._num_ngrams[best])
        if share < LEAST_SHARE or not _same_numbers(said, item.words):
            return None
        start = int(runs[0])
        return Hit(item.benchmark, item.id, "ngram", " ".join(said[start : start + self._n]), share)

    def _find_whole(self, question: Question, said: list[str], of_words: np.ndarray) -> Hit | None:
        mine: _Item | None = None
        for length in sorted(self._key_lengths):
            for start, key in enumerate(ngram_hashes(of_words, length).tolist()):
                for place in self._by_start.get(key, ()):
                    item = self._items[place]
                    whole = len(item.words) == len(said)
                    if tuple(said[start : start + len(item.words)]) != item.words:
                        continue
                    mine = mine or _item("", question)
                    if _agree(mine, item) and (whole or _can_be_contained(item) or _same_options(mine, item)):
                        rule = "same" if whole else "contained"
                        return Hit(item.benchmark, item.id, rule, " ".join(item.words), 1.0)
        return None


def _can_be_contained(item: _Item) -> bool:
    """Whether an item says enough to be known inside another text: 5 words, or two numbers."""
    return len(item.words) >= _FEWEST_CONTAINED or sum(map(str.isdecimal, item.words)) >= 2


def _index(long: list[tuple[int, _Item]], n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Hashes of the n-grams that one item alone has, sorted, with the place of that item."""
    grams = [ngram_hashes(hashes(item.words), n) for _, item in long]
    if not grams:
        return np.empty(0, np.uint64), np.empty(0, np.int64), 0
    owners = [np.full(len(part), place) for part, (place, _) in zip(grams, long, strict=True)]
    all_grams, all_owners = np.concatenate(grams), np.concatenate(owners)
    order = np.lexsort((all_owners, all_grams))
    all_grams, all_owners = all_grams[order], all_owners[order]
    repeats = (all_grams[1:] == all_grams[:-1]) & (all_owners[1:] == all_owners[:-1])
    kept = np.r_[True, ~repeats]  # an item may say the same twice
    values, first, counts = np.unique(all_grams[kept], return_index=True, return_counts=True)
    alone = counts == 1
    return values[alone], all_owners[kept][first[alone]], int((~alone).sum())


def _item(benchmark: str, question: Question) -> _Item:
    return _Item(
        benchmark,
        question.id,
        tuple(words(question.question)),
        tuple(signed_words(question.question)),
        tuple(bracketed_words(question.question)),
        gold_text(question),
        question.options or (),
    )


def _agree(question: _Item, item: _Item) -> bool:
    """Whether a question that holds all words of a short item asks the same: their answers decide."""
    if not (_holds(question.signed, item.signed) and _holds(question.bracketed, item.bracketed)):
        return False
    if question.options and item.options:
        shared = _spelled(question.options) & _spelled(item.options)
        return 2 * len(shared) >= min(len(question.options), len(item.options))
    if question.gold == item.gold:
        return True
    return len(item.words) >= _ENOUGH_ALONE and not item.options and not question.options


def _same_options(question: _Item, item: _Item) -> bool:
    return bool(item.options) and _spelled(question.options) == _spelled(item.options)


def _spelled(options: tuple[str, ...]) -> set[str]:
    return {" ".join(signed_words(option)) or option.strip() for option in options}


def _same_numbers(said: list[str], item: tuple[str, ...]) -> bool:
    """Whether most numbers of the item are there: the same text with other numbers is another question."""
    wanted = Counter(filter(str.isdecimal, item))
    found = wanted & Counter(filter(str.isdecimal, said))
    return found.total() >= LEAST_NUMBERS * wanted.total()


def _holds(whole: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Whether `part` is in `whole` in a row, signs included."""
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))
