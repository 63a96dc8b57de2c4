"""One safetensors file: its header read and checked, its tensors read and written by file offset.

A safetensors file is an 8-byte little-endian header length, a JSON header that gives the dtype, the shape
and the byte range of every tensor, and the bytes (https://github.com/huggingface/safetensors#format). Tensors
are read into fresh memory rather than mapped, so that the memory of a process grows with the tensors that it
holds and not with the files that it has opened.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from niwaki.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_REMEDY = "Download or copy the file again; it is damaged or incomplete."


@dataclass(frozen=True)
class Spec:
    """The dtype and the shape of a tensor that need not be in memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """How many bytes the tensor takes, in memory and in a file."""
        return self.num_elements * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """A safetensors file whose header has been checked against its length.

    `tensors` and `offsets` (of a tensor's first byte, from the start of the file) are in file order.
    """

    path: Path
    tensors: dict[str, Spec]
    offsets: dict[str, int]
    metadata: dict[str, str]


def open_shard(path: Path) -> Shard:
    """Read and check the header of a safetensors file; its tensors stay on disk.

    Raises:
        CheckpointError: the file is missing, its header cannot be read, or the byte ranges that the header
            gives are not exactly the bytes that the file has (a truncated download, for instance).
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: the file is missing.", "Download or copy the model folder again.")
    num_file_bytes = path.stat().st_size
    with path.open("rb") as file:
        num_header_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= num_header_bytes <= min(_MAX_HEADER_BYTES, num_file_bytes - 8):
            raise CheckpointError(
                f"{path}: not a safetensors file, or cut short: it announces a header of {num_header_bytes} "
                f"bytes and is {num_file_bytes} bytes long.",
                _REMEDY,
            )
        header_bytes = file.read(num_header_bytes)
    try:
        header: dict[str, Any] = json.loads(header_bytes)
        metadata = header.pop("__metadata__", {})
        ranges = {name: tuple(entry["data_offsets"]) for name, entry in header.items()}
        dtypes = {name: entry["dtype"] for name, entry in header.items()}
        shapes = {name: _shape(entry["shape"]) for name, entry in header.items()}
        names = sorted(header, key=lambda name: ranges[name])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the safetensors header cannot be read ({type(error).__name__}: {error}).", _REMEDY
        ) from error
    tensors = {name: Spec(_dtype(dtypes[name], name, path), shapes[name]) for name in names}
    start = 8 + num_header_bytes
    end = _check_ranges(tensors, ranges, path)
    if start + end != num_file_bytes:
        raise CheckpointError(
            f"{path}: the header describes {start + end} bytes, the file has {num_file_bytes}.", _REMEDY
        )
    return Shard(path, tensors, {name: start + ranges[name][0] for name in tensors}, metadata)


def _shape(stated: Any) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in stated):
        raise ValueError(f"the shape {stated!r} is no list of sizes")
    return tuple(stated)


def _dtype(code: str, name: str, path: Path) -> torch.dtype:
    if not isinstance(code, str) or code not in DTYPES:
        raise CheckpointError(
            f"{path}: {name} has dtype {code!r}, expected one of {' '.join(DTYPES)}.",
            "Quantized weights cannot be shaped: start from the bf16 or fp32 checkpoint.",
        )
    return DTYPES[code]


def _check_ranges(tensors: Mapping[str, Spec], ranges: Mapping[str, tuple[int, ...]], path: Path) -> int:
    """Check that the byte ranges follow one another and fit the shapes; return where the last one ends."""
    end = 0
    for name, spec in tensors.items():
        expected = (end, end + spec.num_bytes)
        if ranges[name] != expected:
            raise CheckpointError(
                f"{path}: {name} is given bytes {ranges[name]}; its dtype and shape need {expected}.", _REMEDY
            )
        end += spec.num_bytes
    return end


def read_tensor(file: BinaryIO, offset: int, spec: Spec) -> Tensor:
    """Read one tensor into memory of its own, from `offset` bytes after the start of the file."""
    raw = torch.empty(spec.num_bytes, dtype=torch.uint8)
    view = memoryview(raw.numpy().data)
    file.seek(offset)
    filled = 0
    while filled < len(view):
        num_read = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not num_read:
            raise CheckpointError(f"{file.name}: ends inside a tensor.", _REMEDY)
        filled += num_read
    return raw.view(spec.dtype).view(spec.shape)


def write_tensor(file: BinaryIO, offset: int, tensor: Tensor) -> None:
    """Write the bytes of a tensor, without another copy of it, `offset` bytes after the start of the file."""
    view = memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    written = 0
    while written < len(view):
        written += os.pwrite(file.fileno(), view[written:], offset + written)


def header_for(tensors: Mapping[str, Spec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Return the first bytes of a file that will hold `tensors` in this order, and the offset of each tensor.

    The bytes are those that the safetensors library writes for the same order of tensors.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, spec in tensors.items():
        header[name] = {
            "dtype": _DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [end, end + spec.num_bytes],
        }
        end += spec.num_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    offsets = {
        name: start + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"
    }
    return len(text).to_bytes(8, "little") + text, offsets
