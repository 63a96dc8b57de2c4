"""Where text comes from: a Hugging Face dataset, local files, or the Python standard library.

In: the name of a source. Out: a stream of `Document`s. Nothing is tokenised here.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from niwaki.errors import DataError

TABLE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst")

# Test suites, generated tables and build settings: not code that a person wrote to be read, and not on
# every installation.
_STDLIB_SKIPPED_PARTS = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
    "pydoc_data",
    "turtledemo",
    "ensurepip",
}
_STDLIB_SKIPPED_PREFIXES = (
    "_sysconfigdata",
    "config-",
    "__phello__",
    "encodings/cp",
    "encodings/iso8859",
    "encodings/mac_",
    "encodings/koi8",
)
STDLIB_HELD_OUT = 0.08


@dataclass(frozen=True)
class Document:
    """One text. Documents with equal `group` never end up on both sides of a split."""

    name: str
    text: str
    group: str


def split_of(document: Document, held_out: float) -> Literal["train", "held_out"]:
    """Which side a document falls on: decided by a hash of its group alone, never by its position.

    A smaller `held_out` fraction holds out a subset of what a larger one does.
    """
    digest = hashlib.sha256(document.group.encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") / 2**64 < held_out else "train"


def stdlib_documents(split: Literal["train", "held_out"] | None = None) -> Iterator[Document]:
    """The source of this Python's standard library, one file a document, grouped by top-level module.

    `split` picks one side of the project's fixed split (`STDLIB_HELD_OUT` of the modules held out);
    None gives both.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if _STDLIB_SKIPPED_PARTS & set(path.relative_to(root).parts) or name.startswith(
            _STDLIB_SKIPPED_PREFIXES
        ):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        module = name.split("/")[0].removesuffix(".py").lstrip("_")
        document = Document(name, text, f"cpython:{module}")
        if text.strip() and (split is None or split_of(document, STDLIB_HELD_OUT) == split):
            yield document


def read_documents(
    source: str, *, text_column: str = "text", config: str | None = None, split: str = "train"
) -> Iterator[Document]:
    """Stream the documents of `source`.

    Args:
        source: "stdlib", a local file or folder (.txt .md .py .rst: one document a file; .jsonl .json
            .parquet .csv: one a row), or the name of a dataset on the Hugging Face hub.
        text_column: the column that holds the text, for tables and hub datasets.
        config: the hub dataset's configuration.
        split: the hub dataset's split.

    Raises:
        DataError: nothing is at `source`, no file there is of a known form, or a row lacks the column.
    """
    if source == "stdlib":
        yield from stdlib_documents()
        return
    path = Path(source).expanduser()
    if path.exists():
        for file in source_files(path):
            if file.suffix in TEXT_SUFFIXES:
                text = file.read_text(encoding="utf-8-sig", errors="replace")
                yield Document(file.name, text, _group(text))
            else:
                yield from _rows_of(
                    TABLE_FORMATS[file.suffix], text_column, data_files=str(file), split="train"
                )
        return
    if source.startswith((".", "/", "~")):
        raise DataError(f"data source {source!r}: nothing is there.", "Give an existing file or folder.")
    yield from _rows_of(source, text_column, name=config, split=split)


def source_files(path: Path) -> list[Path]:
    """The files under `path` that `read_documents` would read, in a fixed order.

    Raises:
        DataError: there is none.
    """
    known = (*TEXT_SUFFIXES, *TABLE_FORMATS)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    found = [f for f in files if f.suffix in known]
    if not found:
        raise DataError(
            f"data source {str(path)!r}: no file of a known form.", f"Known forms: {' '.join(known)}."
        )
    return found


def source_fingerprint(source: str, **options: object) -> str:
    """A hash that changes when the source does: file names, sizes and times, or the hub name and options."""
    parts: list[object] = [source, sorted(options.items(), key=str)]
    path = Path(source).expanduser()
    if source == "stdlib":
        parts.append(sys.version)
    elif path.exists():
        for file in [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file()):
            stat = file.stat()
            parts.append((file.name, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _rows_of(loader: str, text_column: str, **load: object) -> Iterator[Document]:
    from datasets import load_dataset

    try:
        rows: Iterable[dict[str, object]] = load_dataset(loader, streaming=True, **load)
    except Exception as error:
        raise DataError(
            f"dataset {loader!r}: cannot be opened ({type(error).__name__}: {error}).",
            "Give a local file or folder, or a dataset name that `datasets.load_dataset` opens.",
        ) from error
    for number, row in enumerate(rows):
        text = row.get(text_column)
        if not isinstance(text, str):
            raise DataError(
                f"dataset {load.get('data_files', loader)!r}, row {number}: "
                f"no text in column {text_column!r} (columns: {', '.join(row)}).",
                "Set `text_column` to the column that holds the text.",
            )
        yield Document(f"{loader}:{number}", text, _group(text))


def _group(text: str) -> str:
    return "text:" + hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
