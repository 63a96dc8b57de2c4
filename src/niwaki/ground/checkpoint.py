"""A Hugging Face model folder, one tensor at a time: a reader and a writer.

`Checkpoint` reads `model.safetensors`, or the shards that `model.safetensors.index.json` lists; `Writer`
writes the same. Neither holds more than the tensor, or the rows of it, that the caller asks for or
hands over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from niwaki.errors import CheckpointError
from niwaki.ground.shard import Shard, Spec, header_for, open_shard, read_tensor, write_tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_CARRIED = (
    "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.tiktoken",
    "spiece.model", "sentencepiece*.model", "chat_template*", "additional_chat_templates/*",
    "generation_config.json", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SAMPLES, _SAMPLE_BYTES = 8, 4096
# Fits the cache of a processor core and is below the size from which malloc maps fresh pages every time.
_BLOCK_BYTES = 1 << 20


class Checkpoint:
    """A model folder whose weights stay on disk until they are asked for.

    Making one reads config.json and the header of every shard and checks them: each shard is there, is as
    long as its header says, and holds exactly the tensors that the index gives it.

    Raises:
        CheckpointError: names the file that is missing, damaged, needs remote code or is not safetensors.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path}: no such folder, expected a model folder.", "Check the path.")
        for name in ("config.json", "tokenizer_config.json"):
            _refuse_remote_code(self.path / name)
        self.shards: tuple[Shard, ...] = _open_shards(self.path)
        self._shard_of = {name: shard for shard in self.shards for name in shard.tensors}

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's configuration, as stock `transformers` reads it."""
        try:
            return AutoConfig.from_pretrained(self.path, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.path / 'config.json'}: transformers cannot read it: {error}",
                "Check that it is complete and that its model_type is one that transformers knows.",
            ) from error

    @property
    def num_bytes(self) -> int:
        """How many bytes the tensors take, without the headers."""
        return sum(spec.num_bytes for shard in self.shards for spec in shard.tensors.values())

    def names(self) -> tuple[str, ...]:
        """The names of all tensors on disk, shard by shard, in file order."""
        return tuple(self._shard_of)

    def spec(self, name: str) -> Spec:
        """The dtype and shape of a tensor, from the header."""
        return self._shard_of[name].tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header."""
        return self.spec(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, from the header."""
        return self.spec(name).dtype

    def read(self, name: str) -> Tensor:
        """Read one tensor into memory of its own.

        Raises:
            CheckpointError: it holds a NaN or an infinity.
        """
        shard = self._shard_of[name]
        with shard.path.open("rb", buffering=0) as file:
            return self._finite(name, read_tensor(file, shard.offsets[name], shard.tensors[name]))

    def blocks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Read one tensor of one dimension or more in blocks of rows of about 1 MiB, in order.

        Yields:
            The number of the first row, and the rows.

        Raises:
            CheckpointError: it holds a NaN or an infinity.
        """
        shard = self._shard_of[name]
        dtype, (num_rows, *row_shape) = shard.tensors[name].dtype, shard.tensors[name].shape
        row_bytes = Spec(dtype, tuple(row_shape)).num_bytes
        block_rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
        with shard.path.open("rb", buffering=0) as file:
            for first in range(0, num_rows, block_rows):
                spec = Spec(dtype, (min(block_rows, num_rows - first), *row_shape))
                block = read_tensor(file, shard.offsets[name] + first * row_bytes, spec)
                yield first, self._finite(name, block)

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        """Refuse a tensor, or rows of one, with values that are not finite.

        Raises:
            CheckpointError: names the tensor.
        """
        # Both ends of the range are NaN as soon as one value is, and finding them needs no second tensor.
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            if not (low.isfinite() and high.isfinite()):
                raise CheckpointError(
                    f"{self._shard_of[name].path}: {name} holds values that are not finite "
                    f"(smallest {low.item()}, largest {high.item()}).",
                    "Use weights from before the training run diverged, or download the file again.",
                )
        return tensor

    def files(self) -> tuple[Path, ...]:
        """The files that belong to the model beside weights and config, relative to the folder.

        Tokenizer, chat templates, generation config and licence; not the model card, which speaks of this
        model only, and no Python code.
        """
        found = {path for pattern in _CARRIED for path in self.path.glob(pattern) if path.is_file()}
        return tuple(sorted(path.relative_to(self.path) for path in found if path.suffix != ".py"))

    def copy_files(self, folder: Path) -> None:
        """Copy `files()` into another model folder."""
        for relative in self.files():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path / relative, folder / relative)

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256((self.path / "config.json").read_bytes())
        for name in sorted(self._shard_of):
            shard = self._shard_of[name]
            spec = shard.tensors[name]
            digest.update(f"{name} {spec.dtype} {spec.shape}".encode())
            with shard.path.open("rb", buffering=0) as file:
                for offset in _sample_offsets(spec.num_bytes):
                    file.seek(shard.offsets[name] + offset)
                    digest.update(file.read(min(_SAMPLE_BYTES, spec.num_bytes - offset)))
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Identify the model: 64 hexadecimal digits, the same however the weights are cut into shards.

        Covers config.json, and of every tensor the name, dtype, shape and 8 blocks of 4 KiB spread over its
        bytes (all bytes of a tensor of up to 32 KiB), so that a 100 GB model takes a second. Training moves
        nearly every value and is noticed; one value edited between two blocks is not.
        """
        return self._digest


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
        num = len(shards)
        files = (
            [SINGLE] if num == 1 else [f"model-{i:05d}-of-{num:05d}.safetensors" for i in range(1, num + 1)]
        )
        self._place: dict[str, tuple[Path, int, Spec]] = {}
        for file_name, tensors in zip(files, shards, strict=True):
            header, offsets = header_for(tensors, metadata or {"format": "pt"})
            with (folder / file_name).open("wb") as file:
                file.write(header)
                file.truncate(len(header) + sum(spec.num_bytes for spec in tensors.values()))
            self._place |= {name: (folder / file_name, offsets[name], spec) for name, spec in tensors.items()}
        if num > 1:
            _write_index(
                folder / INDEX, {name: path.name for name, (path, _, _) in self._place.items()}, shards
            )
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


def _open_shards(path: Path) -> tuple[Shard, ...]:
    if (path / SINGLE).exists():
        return (open_shard(path / SINGLE),)
    if not (path / INDEX).exists():
        pickles = sorted(found.name for pattern in _PICKLES for found in path.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{path}: holds pickled weights ({pickles[0]}), expected {SINGLE} or {INDEX}.",
                "Convert them to safetensors: AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)",
            )
        raise CheckpointError(
            f"{path}: no weights, expected {SINGLE} or {INDEX}.", "Download the whole model folder."
        )
    weight_map = _read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / INDEX}: no weight_map.", "Download or copy the file again.")
    for file_name in weight_map.values():
        if not isinstance(file_name, str) or file_name in ("", "..") or Path(file_name).name != file_name:
            raise CheckpointError(
                f"{path / INDEX}: {file_name!r} is no file of this folder.",
                "Do not use this download: an index names the files that lie beside it.",
            )
    shards = tuple(open_shard(path / file_name) for file_name in sorted(set(weight_map.values())))
    found = {(name, shard.path.name) for shard in shards for name in shard.tensors}
    for name, file_name in sorted(found ^ set(weight_map.items())):
        fault = (
            "which the index does not list" if (name, file_name) in found else "which is not in that shard"
        )
        raise CheckpointError(
            f"{path / INDEX}: {name} of {file_name}, {fault}.",
            "Index and shards belong to different models or downloads; get them again together.",
        )
    return shards


def _refuse_remote_code(path: Path) -> None:
    if path.name == "config.json" and not path.is_file():
        raise CheckpointError(f"{path}: the file is missing.", "Download or copy the model folder again.")
    if path.is_file() and "auto_map" in _read_json(path):
        raise CheckpointError(
            f"{path}: asks for code from the model folder (auto_map), which niwaki never runs.",
            "If transformers has this model itself, remove auto_map from the file.",
        )


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}).", "Download or copy the file again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, expected an object.", "Get it again."
        )
    return content


def _sample_offsets(num_bytes: int) -> Iterator[int]:
    if num_bytes <= _SAMPLES * _SAMPLE_BYTES:
        return iter(range(0, num_bytes, _SAMPLE_BYTES))
    return (i * (num_bytes - _SAMPLE_BYTES) // (_SAMPLES - 1) for i in range(_SAMPLES))


def _write_index(path: Path, weight_map: Mapping[str, str], shards: Sequence[Mapping[str, Spec]]) -> None:
    specs = [spec for tensors in shards for spec in tensors.values()]
    metadata = {
        "total_parameters": sum(spec.num_elements for spec in specs),
        "total_size": sum(spec.num_bytes for spec in specs),
    }
    index = {"metadata": metadata, "weight_map": dict(weight_map)}
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
