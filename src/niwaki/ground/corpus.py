"""Text to tokens, once: tokenised, packed, split and cached.

In: a source of documents and a tokenizer. Out: a `Corpus` of two memory-mapped token arrays. Documents are
joined with the end-of-text token between them. The split goes by document (see `text.split_of`), so no
held-out text is ever in the training half, and copies of one document stay on one side.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from transformers import PreTrainedTokenizerBase

from niwaki.errors import DataError
from niwaki.ground.folder import writing_to
from niwaki.ground.text import Document, read_documents, source_fingerprint, split_of

_DOCUMENTS_A_BATCH = 64
_TOKENS_HASHED_AT_ONCE = 2**20


@dataclass(frozen=True)
class Tokens:
    """One side of a corpus: `ids` [N], and how many bytes of text a token stands for on average."""

    ids: np.ndarray
    bytes_per_token: float


@dataclass(frozen=True)
class Corpus:
    """Tokenised text, split once and for all. `fingerprint` changes with the text or the tokenizer."""

    train: Tokens
    held_out: Tokens
    fingerprint: str


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides how text becomes ids; padding and truncation are up to the caller."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    rules |= {"padding": None, "truncation": None, "vocabulary": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def text_fingerprint(corpus: Corpus) -> str:
    """A hash of every token on both sides, in order, wherever the text came from."""
    digest = hashlib.sha256()
    for tokens in (corpus.train, corpus.held_out):
        digest.update(f"{len(tokens.ids)} ".encode())
        for first in range(0, len(tokens.ids), _TOKENS_HASHED_AT_ONCE):
            digest.update(tokens.ids[first : first + _TOKENS_HASHED_AT_ONCE].astype("<u4").tobytes())
    return digest.hexdigest()[:16]


def prepare(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out: float,
    text_column: str = "text",
    config: str | None = None,
    split: str = "train",
    max_tokens: int | None = None,
    cache: Path | None = None,
) -> Corpus:
    """Tokenise `source`, or take it from the cache.

    Args:
        source, text_column, config, split: see `text.read_documents`.
        held_out: fraction of the documents (by hash) that training never sees.
        max_tokens: stop reading once the training half holds this many; None reads everything.
        cache: folder for token files; `$NIWAKI_CACHE`, or `~/.cache/niwaki`, when None.

    Raises:
        DataError: one side of the split is empty, or the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the tokenizer has no end-of-text token.", "Set its `eos_token`; documents are joined with it."
        )
    options = {"text_column": text_column, "config": config, "split": split}
    folder = _folder(source, tokenizer, held_out=held_out, max_tokens=max_tokens, cache=cache, **options)
    if not folder.exists():
        documents = read_documents(source, text_column=text_column, config=config, split=split)
        _tokenise(documents, tokenizer, folder, held_out=held_out, max_tokens=max_tokens, source=source)
    return _open(folder, folder.name)


def find(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out: float,
    max_tokens: int | None = None,
    cache: Path | None = None,
    **options: str | None,
) -> Corpus | None:
    """What `prepare` would return, if it has been called with the same arguments before; else None."""
    folder = _folder(source, tokenizer, held_out=held_out, max_tokens=max_tokens, cache=cache, **options)
    return _open(folder, folder.name) if folder.exists() else None


def _folder(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out: float,
    max_tokens: int | None,
    cache: Path | None,
    **options: str | None,
) -> Path:
    """Where the tokens lie; its name is the fingerprint of the corpus."""
    origin = source_fingerprint(source, **options)
    key = f"{origin}-{tokenizer_fingerprint(tokenizer)}-{tokenizer.eos_token_id}-{held_out:g}-{max_tokens}"
    return (cache or default_cache()) / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:16]


def default_cache() -> Path:
    """`$NIWAKI_CACHE`, or `~/.cache/niwaki`."""
    return Path(os.environ.get("NIWAKI_CACHE", "~/.cache/niwaki")).expanduser()


def _tokenise(
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    held_out: float,
    max_tokens: int | None,
    source: str,
) -> None:
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    with writing_to(partial):
        partial.mkdir(parents=True)
    try:
        counts = {name: {"tokens": 0, "bytes": 0} for name in ("train", "held_out")}
        dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        with (partial / "train.bin").open("wb") as train, (partial / "held_out.bin").open("wb") as held:
            files: dict[str, BinaryIO] = {"train": train, "held_out": held}
            for batch in _batches(d for d in documents if d.text.strip()):
                encoded = tokenizer([d.text for d in batch], add_special_tokens=False, verbose=False)[
                    "input_ids"
                ]
                for document, ids in zip(batch, encoded, strict=True):
                    side = split_of(document, held_out)
                    files[side].write(np.asarray([*ids, tokenizer.eos_token_id], dtype=dtype).tobytes())
                    counts[side]["tokens"] += len(ids) + 1
                    counts[side]["bytes"] += len(document.text.encode())
                if max_tokens is not None and counts["train"]["tokens"] >= max_tokens:
                    break
        for name, count in counts.items():
            if count["bytes"] == 0:
                raise DataError(
                    f"data source {source!r}: no text in its {name.replace('_', '-')} half "
                    f"({counts['train']['tokens']} training, {counts['held_out']['tokens']} held-out).",
                    f"Give more documents, or change `held_out` (now {held_out:.2%}).",
                )
        meta = {"dtype": np.dtype(dtype).name, "counts": counts}
        (partial / "corpus.json").write_text(json.dumps(meta))
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # another process may have finished the same work first
            with writing_to(folder):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, _DOCUMENTS_A_BATCH)):
        yield batch


def _open(folder: Path, fingerprint: str) -> Corpus:
    meta = json.loads((folder / "corpus.json").read_text())

    def side(name: str) -> Tokens:
        count = meta["counts"][name]
        ids = np.memmap(folder / f"{name}.bin", dtype=meta["dtype"], mode="r")
        return Tokens(ids, count["bytes"] / count["tokens"])

    return Corpus(side("train"), side("held_out"), fingerprint)
