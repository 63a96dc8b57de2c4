"""A Hugging Face model folder written one tensor at a time; `checkpoint.py` reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from niwaki.errors import CheckpointError
from niwaki.ground.index import shard_names, write_index
from niwaki.ground.shard import Spec, header_for, write_tensor


class Writer:
    """Writes tensors, in any order, into shards whose layout is known beforehand.

    Args:
        folder: an existing folder; gets `model.safetensors`, or numbered shards and their index.
        shards: for each shard, name -> dtype and shape, in the order wanted in the file.
        metadata: the free text of the headers; "format" is what `transformers` looks for.
    """

    def __init__(
        self, folder: Path, shards: Sequence[Mapping[str, Spec]], metadata: Mapping[str, str] | None = None
    ) -> None:
        files = dict(zip(shard_names(len(shards)), shards, strict=True))
        self._place: dict[str, tuple[Path, int, Spec]] = {}
        for file_name, tensors in files.items():
            header, offsets = header_for(tensors, metadata or {"format": "pt"})
            with (folder / file_name).open("wb") as file:
                file.write(header)
                file.truncate(len(header) + sum(spec.num_bytes for spec in tensors.values()))
            self._place |= {name: (folder / file_name, offsets[name], spec) for name, spec in tensors.items()}
        if len(files) > 1:
            write_index(folder, files)
        self._missing = set(self._place)
        self._file: BinaryIO | None = None

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor to its place.

        Raises:
            CheckpointError: the name is not in the layout or was added before, or its dtype or shape differ.
        """
        file, offset, spec = self._open(name)
        found = Spec(tensor.dtype, tuple(tensor.shape))
        if found != spec:
            raise _wrong(name, found, spec)
        write_tensor(file, offset, tensor)
        self._missing.remove(name)

    def add_blocks(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Write one tensor to its place, given as consecutive rows.

        Raises:
            CheckpointError: as of `add`, for the rows together.
        """
        file, offset, spec = self._open(name)
        num_rows, *row_shape = spec.shape
        row_bytes = Spec(spec.dtype, tuple(row_shape)).num_bytes
        end = 0
        for block in blocks:
            start, end = end, end + len(block)
            found = Spec(block.dtype, (end, *block.shape[1:]))
            if found != replace(spec, shape=(end, *row_shape)) or end > num_rows:
                raise _wrong(name, found, spec)
            write_tensor(file, offset + start * row_bytes, block)
        if end != num_rows:
            raise _wrong(name, replace(spec, shape=(end, *row_shape)), spec)
        self._missing.remove(name)

    def _open(self, name: str) -> tuple[BinaryIO, int, Spec]:
        """The file of a tensor not written yet, its place there, and what it must be."""
        if name not in self._missing:
            raise CheckpointError(f"{name}: not expected, or written already.", "This is a fault in niwaki.")
        path, offset, spec = self._place[name]
        if self._file is None or self._file.name != str(path):
            self._close_file()
            self._file = path.open("r+b")
        return self._file, offset, spec

    def close(self) -> None:
        """Finish the files.

        Raises:
            CheckpointError: a tensor of the layout was never added.
        """
        self._close_file()
        if self._missing:
            raise CheckpointError(f"{min(self._missing)}: was never written.", "This is a fault in niwaki.")

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _wrong(name: str, found: Spec, expected: Spec) -> CheckpointError:
    return CheckpointError(f"{name}: got {found}, expected {expected}.", "This is a fault in niwaki.")
