"""Rows of preference and rating data, from the hub or local files, each with a name that errors can give."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niwaki.errors import DataError
from niwaki.ground.chat import Message

TABLES = {".parquet": "parquet", ".csv": "csv"}
MISSING = -100


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the better one first.

    Attributes:
        strength: how much better, above 0; 1 where the data do not say.
        q: probability that `chosen` is the better one; 0.5 is a tie.
        elaboration: what people wrote about it, where "@Response 1" is `chosen`; empty if they did not.
    """

    row: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    strength: float = 1.0
    q: float = 1.0
    source: str = ""
    elaboration: str = ""

    @property
    def key(self) -> str:
        """Equal for pairs with the same prompt."""
        return prompt_key(self.prompt)


@dataclass(frozen=True)
class Rating:
    """One answer with numbers for what it was rated on; a missing attribute is absent."""

    row: str
    prompt: tuple[Message, ...]
    answer: str
    ratings: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    @property
    def key(self) -> str:
        """Equal for answers to the same prompt."""
        return prompt_key(self.prompt)


def prompt_key(prompt: Iterable[Message]) -> str:
    """A hash of a prompt: white space does not count, roles do."""
    text = "\0".join(f"{m['role']}\1{' '.join(m['content'].split())}" for m in prompt)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def exchanged(text: str) -> str:
    """What was written about two answers, for the other order: "@Response 1" and "2" change places."""
    return re.sub(r"@Response ([12])", lambda match: f"@Response {3 - int(match[1])}", text)


def side_of(key: str, *, test: float, validation: float) -> str:
    """The side of a prompt: train, validation or test, by its hash, so all its rows are on one."""
    place = int(key[:13], 16) / 16**13
    return "test" if place < test else "validation" if place < test + validation else "train"


def read_rows(
    source: str, *, config: str | None = None, data_dir: str | None = None, split: str | None = "train"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a local file (.jsonl .json .parquet .csv), a folder of such, or a hub dataset, with names.

    A folder whose files are named by split ("train.jsonl", "test.jsonl") is read by split; one that is laid
    out as a hub dataset (`data/filtered-00000-of-00001.parquet`) is opened as one.

    Raises:
        DataError: nothing is there, it is not of a known form, or a row is no table row.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if source.startswith((".", "/", "~")) or path.suffix in (".jsonl", ".json", *TABLES):
            raise DataError(f"data source {source!r}: nothing is there.", "Give an existing file or folder.")
        yield from _hub(source, config, data_dir, split)
        return
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
    if path.is_dir() and (data_dir is not None or not files):
        yield from _hub(str(path), config, data_dir, split)
        return
    if any(file.suffix not in _SUFFIXES for file in files):
        raise DataError(
            f"data source {source!r}: no file of a known form.", f"Known forms: {' '.join(_SUFFIXES)}."
        )
    files = [file for file in files if _of_split(file, split)] or files
    for file in files:
        for name, row in _file(file):
            if not isinstance(row, dict):
                raise DataError(f"{name}: holds {type(row).__name__}, expected named columns.", _JSON_HELP)
            yield name, row


_SUFFIXES = (".jsonl", ".json", *TABLES)
_JSON_HELP = "Write one JSON object a row."


def _of_split(file: Path, split: str | None) -> bool:
    """Whether a file of a folder is named after the split: "train.jsonl", "train-00000-of-00002.parquet"."""
    return split is None or re.split(r"[-_.]", file.name)[0] == split


def _file(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file.name}:{number}", _parse(line, f"{file.name}:{number}")
    elif file.suffix == ".json":
        rows = _parse(file.read_text(encoding="utf-8-sig"), file.name)
        if not isinstance(rows, list):
            raise DataError(f"{file.name}: holds {type(rows).__name__}, expected a list of rows.", _JSON_HELP)
        for number, row in enumerate(rows):
            yield f"{file.name}[{number}]", row
    else:
        from datasets import load_dataset

        loaded = load_dataset(TABLES[file.suffix], data_files=str(file), split="train", streaming=True)
        for number, row in enumerate(loaded):
            yield f"{file.name}[{number}]", row


def _hub(
    source: str, config: str | None, data_dir: str | None, split: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source, config, data_dir=data_dir, split=split, streaming=True)
    except Exception as error:
        raise DataError(
            f"dataset {source!r}, split {split!r}: cannot be opened ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}).",
            f"Give a file or a folder of files ({' '.join(_SUFFIXES)}), or a dataset and split that "
            "`datasets.load_dataset` opens.",
        ) from error
    for number, row in enumerate(rows):
        yield f"{source}[{number}]", dict(row)


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{name}: this is not JSON: {error}.", _JSON_HELP) from None
