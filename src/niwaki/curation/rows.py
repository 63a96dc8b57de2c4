"""The raw rows of a data set: local files or the hub, one row at a time, each with a name for messages.

In: a path (.jsonl .json .csv .parquet, or a folder of them) or the name of a hub data set. Out: `Raw` rows.
A row that cannot be read is a `Raw` with a problem instead of fields, so that one broken line among 600,000
is counted and named instead of ending the run.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niwaki.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_EXAMPLE_CHARS = 300


@dataclass(frozen=True)
class Raw:
    """One row as its file has it. `file` is the file's stem; `problem` says why there are no fields."""

    where: str
    file: str
    fields: Mapping[str, Any]
    problem: str | None = None
    text: str = ""


def read_rows(path: str, *, config: str | None = None, split: str | None = None) -> Iterator[Raw]:
    """The rows at `path`: a local file or folder, else a data set on the hub (`config`, `split`: train).

    Raises:
        DataError: nothing is there, no file is of a known form, or the hub has no such data set.
    """
    local = Path(path).expanduser()
    if path and local.exists():
        for file in _files(local):
            yield from _READERS[file.suffix](file)
        return
    if path.startswith((".", "/", "~")) or Path(path).suffix in SUFFIXES:
        raise DataError(f"source {path!r}: nothing is there.", "Give an existing file or folder.")
    yield from _from_hub(path, config, split or "train")


def fingerprint(path: str, **options: object) -> str:
    """A hash that changes when the rows may: names, sizes and times of files, or a hub name and options."""
    local, parts = Path(path).expanduser(), [path, *sorted(map(str, options.items()))]
    if path and local.exists():
        for file in _files(local):
            stat = file.stat()
            parts.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    found = [file for file in files if file.is_file() and file.suffix in SUFFIXES]
    if not found:
        raise DataError(f"source {str(path)!r}: no file of a known form.", f"Forms: {' '.join(SUFFIXES)}.")
    return found


def _from_jsonl(file: Path) -> Iterator[Raw]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file.name}, row {number}"
            try:
                fields = json.loads(line.decode("utf-8-sig"))
            except (UnicodeDecodeError, ValueError) as error:
                text = line[:_EXAMPLE_CHARS].decode("utf-8", "replace").strip()
                yield Raw(where, file.stem, {}, f"is not JSON ({error})", text)
                continue
            yield _row(where, file.stem, fields)


def _from_json(file: Path) -> Iterator[Raw]:
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except (UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"{file}: is not JSON ({error}).", "Give JSON, or one object a line in .jsonl."
        ) from None
    if isinstance(content, dict):  # {"examples": [...]}, {"data": [...]}
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else [content]
    for number, fields in enumerate(content, start=1):
        yield _row(f"{file.name}, row {number}", file.stem, fields)


def _from_csv(file: Path) -> Iterator[Raw]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="", errors="replace") as text:
        for number, fields in enumerate(csv.DictReader(text), start=1):
            where, extra = f"{file.name}, row {number}", fields.pop(None, None)
            problem = "has more columns than the first line" if extra else None
            yield Raw(where, file.stem, {} if problem else fields, problem, str(fields)[:_EXAMPLE_CHARS])


def _from_parquet(file: Path) -> Iterator[Raw]:
    from pyarrow.parquet import ParquetFile

    number = 0
    for batch in ParquetFile(file).iter_batches(batch_size=1_000):
        for fields in batch.to_pylist():
            number += 1
            yield _row(f"{file.name}, row {number}", file.stem, fields)


def _from_hub(name: str, config: str | None, split: str) -> Iterator[Raw]:
    from datasets import load_dataset

    try:
        rows: Iterable[dict[str, Any]] = load_dataset(name, config, split=split, streaming=True)
        for number, fields in enumerate(rows, start=1):
            yield _row(f"{name} {split}, row {number}", split, fields)
    except Exception as error:
        raise DataError(
            f"source {name!r}: cannot be read from the hub ({type(error).__name__}: {error}).",
            "Give a local file or folder, or a data set that `datasets.load_dataset` opens.",
        ) from error


def _row(where: str, file: str, fields: object) -> Raw:
    if isinstance(fields, Mapping):
        return Raw(where, file, fields)
    return Raw(where, file, {}, f"holds {type(fields).__name__}, no object", str(fields)[:_EXAMPLE_CHARS])


_READERS = {".jsonl": _from_jsonl, ".json": _from_json, ".csv": _from_csv, ".parquet": _from_parquet}
