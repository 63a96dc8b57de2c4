"""The mask file: which weights of one model survive, at 0.67 bit per weight for 2:4.

A safetensors file with one uint8 tensor per masked weight (`packed.py`), and in the header, as text: the
pattern, the shape of every weight, the identity of the model that the mask is for (its name, and the
fingerprint of `ground.checkpoint`), how the mask was made, and the SHA-256 of the unpacked masks. It is
read and written one tensor at a time. The mask is stored as it is and never recovered from zeros, so a
weight that is kept and happens to be zero stays kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from niwaki.errors import CheckpointError, RecipeError
from niwaki.ground.folder import flush
from niwaki.ground.shard import Shard, Spec, header_for, open_shard, read_tensor, write_tensor
from niwaki.masks.packed import MaskHash, Packing
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import Shapes

FORMAT = "niwaki mask 1"
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Origin:
    """What a mask belongs to and where it came from.

    Attributes:
        model: the name that the model was given by; for people.
        fingerprint: `Checkpoint.fingerprint` of the model, which `apply` compares.
        made: how, for people: method, updated weights or not, data, steps.
    """

    model: str
    fingerprint: str
    made: Mapping[str, Any] = field(default_factory=dict)


class MaskFile:
    """A mask on disk, read tensor by tensor. Making one checks the header.

    Raises:
        CheckpointError: the file is missing, cut short, or no mask file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._shard: Shard = open_shard(self.path)
        try:
            text = self._shard.metadata
            if text["format"] != FORMAT:
                raise KeyError("format")
            self.pattern = Pattern.parse(text["pattern"])
            self.shapes: Shapes = {name: tuple(shape) for name, shape in json.loads(text["shapes"]).items()}
            self.origin = Origin(text["model"], text["fingerprint"], json.loads(text["made"]))
            self.sha256 = text["sha256"]
        except (KeyError, ValueError, RecipeError) as error:
            raise CheckpointError(
                f"{self.path}: a safetensors file, but no mask of niwaki ({error}).",
                "Give a file that `niwaki run` or `niwaki mask import` wrote.",
            ) from error
        if set(self.shapes) != set(self._shard.tensors):
            raise CheckpointError(
                f"{self.path}: its header speaks of other tensors than it holds.", "Get the file again."
            )
        self.packing = Packing(self.pattern)

    @property
    def num_weights(self) -> int:
        """How many weights the mask covers."""
        return sum(self.pattern.num_groups(shape) for shape in self.shapes.values()) * self.pattern.group

    def numbers(self, name: str) -> Tensor:
        """The candidate numbers of one tensor, uint8 [G]."""
        with self.path.open("rb", buffering=0) as file:
            packed = read_tensor(file, self._shard.offsets[name], self._shard.tensors[name])
        return self.packing.unpack(
            packed, self.pattern.num_groups(self.shapes[name]), name=f"{self.path}: {name}"
        )

    def mask(self, name: str) -> Tensor:
        """The mask of one tensor, bool of the weight's shape."""
        return self.pattern.mask(self.numbers(name), self.shapes[name])

    def load(self) -> dict[str, Tensor]:
        """Every tensor's candidate numbers, with the hash checked.

        Raises:
            CheckpointError: the content is not what was written.
        """
        numbers = {name: self.numbers(name) for name in self.shapes}
        self._compare(numbers.items())
        return numbers

    def check(self) -> None:
        """Read everything, one tensor at a time, and compare the hash.

        Raises:
            CheckpointError: the content is not what was written.
        """
        self._compare((name, self.numbers(name)) for name in self.shapes)

    def check_model(self, fingerprint: str, name: str) -> None:
        """Refuse to be laid over another model.

        Raises:
            CheckpointError: the fingerprints differ.
        """
        if fingerprint != self.origin.fingerprint:
            raise CheckpointError(
                f"{self.path}: made for the model {self.origin.model!r} with fingerprint "
                f"{self.origin.fingerprint[:12]}; {name!r} has {fingerprint[:12]}.",
                "Use the very checkpoint that the mask was learned on; another dtype is another checkpoint.",
            )

    def _compare(self, tensors: Any) -> None:
        found = MaskHash()
        for name, numbers in tensors:
            found.add(name, self.pattern, numbers)
        if found.hexdigest() != self.sha256:
            raise CheckpointError(
                f"{self.path}: the masks are not those that were written (hash {found.hexdigest()[:12]}, "
                f"expected {self.sha256[:12]}).",
                "Copy or download the file again; it is damaged.",
            )


class MaskWriter:
    """Writes masks in the order of `shapes`; see `writing`."""

    def __init__(self, file: Any, shapes: Shapes, pattern: Pattern, origin: Origin) -> None:
        self._file, self._pattern, self._packing = file, pattern, Packing(pattern)
        self._specs = {
            name: Spec(torch.uint8, (self._packing.num_bytes(pattern.num_groups(shape)),))
            for name, shape in shapes.items()
        }
        self._text = {
            "format": FORMAT,
            "pattern": str(pattern),
            "model": origin.model,
            "fingerprint": origin.fingerprint,
            "made": json.dumps(origin.made),
            "shapes": json.dumps({name: list(shape) for name, shape in shapes.items()}),
            "sha256": _NO_HASH,
        }
        header, self._offsets = header_for(self._specs, self._text)
        file.write(header)
        file.truncate(len(header) + sum(spec.num_bytes for spec in self._specs.values()))
        self._waiting = list(shapes)
        self._hash = MaskHash()

    def add(self, name: str, numbers: Tensor) -> None:
        """Write the candidate numbers [G] of the next tensor."""
        expected = self._waiting.pop(0)
        assert name == expected, f"{name} came in the place of {expected}"
        self._hash.add(name, self._pattern, numbers)
        write_tensor(self._file, self._offsets[name], self._packing.pack(numbers))

    def close(self) -> None:
        """Write the hash into the header, whose length it does not change."""
        assert not self._waiting, self._waiting[0]
        header, _ = header_for(self._specs, self._text | {"sha256": self._hash.hexdigest()})
        os.pwrite(self._file.fileno(), header, 0)


@contextmanager
def writing(
    path: Path, shapes: Shapes, pattern: Pattern, origin: Origin, *, replace: bool = False
) -> Iterator[MaskWriter]:
    """A writer of a new mask file, which appears under its name when the block ends well.

    Args:
        replace: an earlier file gives way, as for a stage that is done again.

    Raises:
        RecipeError: the path is taken.
    """
    if path.exists() and not replace:
        raise RecipeError(f"{path} is already there.", "Give another name, or remove it first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            writer = MaskWriter(file, shapes, pattern, origin)
            yield writer
            file.flush()
            writer.close()
        flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save(
    path: Path,
    masks: Mapping[str, Tensor],
    shapes: Shapes,
    pattern: Pattern,
    origin: Origin,
    *,
    replace: bool = False,
) -> None:
    """Write masks that are in memory: tensor name -> candidate numbers [G]. Raises as `writing` does."""
    with writing(path, shapes, pattern, origin, replace=replace) as file:
        for name in shapes:
            file.add(name, masks[name])
