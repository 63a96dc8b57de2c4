"""The text of a run as rows of tokens: to train on, to calibrate on, and held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from niwaki.ground.corpus import Corpus, find, prepare
from niwaki.ground.model import load_tokenizer
from niwaki.ground.stream import Rows
from niwaki.recipe.data import Data

# Calibration reads the training text in an order of its own.
_CALIBRATION_SEED = 1_000_003
CURVE_TOKENS = 8_192


@dataclass(frozen=True)
class Texts:
    """Opened when first asked for, so that a stage that is done costs nothing.

    `model_folder` has the tokenizer; `num_tokens` is how much held-out text is measured on, at most.
    """

    data: Data
    model_folder: Path
    seed: int
    num_tokens: int

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return load_tokenizer(self.model_folder)

    @cached_property
    def corpus(self) -> Corpus:
        """The tokenised text, split."""
        return prepare(self.data.source, self.tokenizer, **self._options)

    @property
    def known_corpus(self) -> Corpus | None:
        """`corpus` if it has been tokenised before, by this run or another."""
        return find(self.data.source, self.tokenizer, **self._options)

    @cached_property
    def train(self) -> Rows:
        """Rows for training, in the recipe's seeded order."""
        return self._rows(self.seed)

    @cached_property
    def calibration(self) -> Rows:
        """Rows for calibration: the training text in another order."""
        return self._rows(self.seed + _CALIBRATION_SEED)

    @cached_property
    def held_out(self) -> Rows:
        """Rows for evaluation, in the order of the text."""
        return Rows(self.corpus.held_out.ids, sequence_length=self.data.sequence_length_tokens)

    @property
    def num_held_out_rows(self) -> int:
        """How many of them the recipe measures on."""
        wanted = self.num_tokens // self.data.sequence_length_tokens
        return max(1, min(self.held_out.num_rows, wanted))

    @property
    def num_curve_rows(self) -> int:
        """How many of them are measured along the way, for the curves: fewer, because it is often."""
        return max(1, min(self.num_held_out_rows, CURVE_TOKENS // self.data.sequence_length_tokens))

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the text."""
        return {
            "source": self.data.source,
            "fingerprint": self.corpus.fingerprint,
            "num_train_tokens": len(self.corpus.train.ids),
            "num_held_out_tokens": len(self.corpus.held_out.ids),
        }

    @property
    def _options(self) -> dict[str, Any]:
        names = ("held_out", "text_column", "config", "split", "max_tokens")
        return {name: getattr(self.data, name) for name in names}

    def _rows(self, seed: int) -> Rows:
        return Rows(self.corpus.train.ids, sequence_length=self.data.sequence_length_tokens, seed=seed)
