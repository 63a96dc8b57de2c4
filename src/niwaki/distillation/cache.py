"""The teacher's predictions for a text, on disk: computed once, shared by students, seeds and epochs.

In: a teacher and rows of text. Out: a folder.

    cache.json                  what it belongs to, how it was made, and how far its KL is off
    PART-NNNNN.safetensors      rows of one part of the text, in the order of the text:
        ids [R, S, K + M] uint16, or uint32 for a vocabulary above 65,536; log_probs [R, S, K] float16;
        tail_mass [R, S] float32; neg_entropy [R, S] float32

Rows are found by their place in the text (`stream.Rows.place`), so any order reads the same folder. Files are
mapped into memory, and only the rows asked for are read.

Shapes: R rows of a file, B rows of a batch, S positions, K most likely tokens, M drawn from the rest, V
vocabulary. What is kept of a token is described in `sampled`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from niwaki.distillation.sampled import Sampled
from niwaki.errors import CheckpointError
from niwaki.ground.stream import Batch, Rows

META = "cache.json"
_WORDS = {
    "teacher": "teacher",
    "tokenizer": "tokenizer",
    "text": "text or its order",
    "sequence_length_tokens": "row length",
    "top_k": "number of most likely tokens",
    "samples": "number of drawn tokens",
}


def bytes_per_token(vocab_size: int, *, top_k: int, num_samples: int) -> int:
    """What one token of text takes on disk."""
    return (top_k + num_samples) * id_type(vocab_size).itemsize + 2 * top_k + 8


def check_top_k(vocab_size: int, *, top_k: int) -> None:
    """Raise CheckpointError when K leaves no tail of the vocabulary to draw from."""
    if top_k >= vocab_size:
        raise CheckpointError(
            f"A cached teacher's top_k {top_k} leaves nothing to draw from its vocabulary of {vocab_size}.",
            f"Use {vocab_size - 1} or less; 64 does well.",
        )


def check_belongs(folder: Path, expected: Mapping[str, Any]) -> None:
    """Refuse a cache, finished or begun, that belongs to something else. One that is not there passes.

    Args:
        expected: any of "teacher", "tokenizer", "text", "sequence_length_tokens", "top_k", "samples".

    Raises:
        CheckpointError: names everything that differs, with both values; or `folder` is no cache.
    """
    for place in (folder, partial_of(folder)):
        if not place.exists():
            continue
        if not (place / META).exists():
            if place == folder and any(place.iterdir()):
                raise CheckpointError(f"{place}: holds files, but no {META}.", "Give another folder.")
            continue
        found = json.loads((place / META).read_text())["belongs_to"]
        differing = [name for name, value in expected.items() if found[name] != value]
        if differing:
            words = " and ".join(_WORDS[name] for name in differing)
            facts = "; ".join(f"{name}: {found[name]} there, {expected[name]} here" for name in differing)
            raise CheckpointError(
                f"{place}: this cached teacher belongs to another {words} ({facts}).",
                "Give another folder for this one, or move that one away to have it made anew.",
            )


class TeacherCache:
    """A finished cache, mapped into memory.

    Raises:
        CheckpointError: there is none at `folder`, or one of its files is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / META).exists():
            raise CheckpointError(f"{folder}: holds no cached teacher ({META}).", "Check the path.")
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / META).read_text())
        self._open = cache(self._opened)
        for name, num_rows in self.meta["num_rows"].items():
            for number in range(math.ceil(num_rows / self.meta["file_rows"])):
                self._open(name, number)

    def read(self, part: str, places: Sequence[int]) -> Sampled:
        """What is kept of the rows at these places of the text: tensors [B, S, ..].

        Raises:
            CheckpointError: a file has been damaged since it was opened.
        """
        rows = [self._row(part, place) for place in places]
        ids, log_probs, tail_mass, neg_entropy = (
            torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)
        )
        return Sampled(ids, log_probs, tail_mass, neg_entropy)

    def _row(self, part: str, place: int) -> tuple[np.ndarray, ...]:
        number, row = divmod(place, self.meta["file_rows"])
        file = self._open(part, number)
        ids, *others = (file.get_slice(n)[row] for n in ("ids", "log_probs", "tail_mass", "neg_entropy"))
        return (ids.astype(np.int64), *others)

    def _opened(self, part: str, number: int) -> Any:
        path = self.folder / file_name(part, number)
        rows = min(self.meta["file_rows"], self.meta["num_rows"][part] - number * self.meta["file_rows"])
        try:
            file = safe_open(path, framework="numpy")
            found = tuple(file.get_slice("ids").get_shape())
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}).",
                f"Move {self.folder} away to have it made anew.",
            ) from error
        belongs_to = self.meta["belongs_to"]
        expected = (
            rows,
            belongs_to["sequence_length_tokens"],
            belongs_to["top_k"] + belongs_to["samples"],
        )
        if found != expected:
            raise CheckpointError(
                f"{path}: holds ids of shape {found}, expected {expected}.",
                f"Move {self.folder} away to have it made anew.",
            )
        return file


class CachedRows:
    """Rows of text with the teacher's predictions beside them, in any order.

    Args:
        rows: over the same text as the cache.
        part: which part of it.
        num_rows: of the text's first rows, how many the cache must have; all of them by default.

    Raises:
        CheckpointError: rows of another length, or more of them than the cache holds.
    """

    def __init__(
        self, rows: Rows, teacher_cache: TeacherCache, part: str, num_rows: int | None = None
    ) -> None:
        meta = teacher_cache.meta
        wanted = rows.num_rows if num_rows is None else num_rows
        length, held = meta["belongs_to"]["sequence_length_tokens"], meta["num_rows"].get(part, 0)
        if rows.sequence_length != length or wanted > held:
            raise CheckpointError(
                f"{teacher_cache.folder}: holds {held} rows of {length} tokens of {part!r}, "
                f"expected {wanted} of {rows.sequence_length}.",
                "Give another folder, or move this one away to have it made anew.",
            )
        self.vocab_size: int = meta["vocab_size"]
        self._rows, self._cache, self._part = rows, teacher_cache, part

    def take(self, start: int, count: int) -> Batch:
        """`Rows.take`, and `teacher_ids`, `teacher_weights` [B, S, K + M], `teacher_neg_entropy` [B, S]."""
        places = [self._rows.place(index) for index in range(start, start + count)]
        kept = self._cache.read(self._part, places)
        return self._rows.take(start, count) | {
            "teacher_ids": kept.ids,
            "teacher_weights": kept.weights,
            "teacher_neg_entropy": kept.neg_entropy,
        }


def id_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that names every token."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def file_name(part: str, number: int) -> str:
    """The name of the `number`-th file of a part."""
    return f"{part}-{number:05d}.safetensors"


def partial_of(folder: Path) -> Path:
    """Where a cache lies while it is made."""
    return folder.with_name(f".{folder.name}.partial")
