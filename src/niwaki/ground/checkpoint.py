"""A Hugging Face model folder, read one tensor at a time; `checkpoint_writer.py` writes them.

`Checkpoint` never holds more than the tensor, or the rows of it, that the caller asks for.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from niwaki.errors import CheckpointError
from niwaki.ground.index import open_shards, read_object
from niwaki.ground.shard import Shard, Spec, read_tensor

_CARRIED = (
    "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.tiktoken",
    "spiece.model", "sentencepiece*.model", "chat_template*", "additional_chat_templates/*",
    "generation_config.json", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
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
        self.shards: tuple[Shard, ...] = open_shards(self.path)
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


def _refuse_remote_code(path: Path) -> None:
    if path.name == "config.json" and not path.is_file():
        raise CheckpointError(f"{path}: the file is missing.", "Download or copy the model folder again.")
    if path.is_file() and "auto_map" in read_object(path):
        raise CheckpointError(
            f"{path}: asks for code from the model folder (auto_map), which niwaki never runs.",
            "If transformers has this model itself, remove auto_map from the file.",
        )


def _sample_offsets(num_bytes: int) -> Iterator[int]:
    if num_bytes <= _SAMPLES * _SAMPLE_BYTES:
        return iter(range(0, num_bytes, _SAMPLE_BYTES))
    return (i * (num_bytes - _SAMPLE_BYTES) // (_SAMPLES - 1) for i in range(_SAMPLES))
