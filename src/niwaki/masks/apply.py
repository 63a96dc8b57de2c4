"""Lay a mask over a model: folder to folder, streamed, or over a model in memory that can change its mask.

The result is a stock dense checkpoint with zeros written in. It takes the memory of the dense one; what 2:4
buys in speed depends on shape and kernel, and is measured by `speed.py`, never promised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from niwaki.errors import CheckpointError
from niwaki.ground.axes import shape as shape_of
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.checkpoint_writer import Writer
from niwaki.ground.family import Family, family_of
from niwaki.ground.folder import new_folder
from niwaki.ground.saved import SaveCheck, verify_saved
from niwaki.masks.file import MaskFile
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import owner

RECORD = "mask.json"
_SIDE_FILES_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """Where the mask of a tensor on disk lies in the mask of a tensor in memory.

    `expert` is None unless the experts are one tensor in memory; `first_row` counts in its matrix.
    """

    name: str
    expert: int | None = None
    first_row: int = 0


def parts_on_disk(family: Family, sizes: Mapping[str, int], names: Mapping[str, object]) -> dict[str, Part]:
    """Name on disk -> part, of the tensors `names` (as they are called in memory)."""
    found: dict[str, Part] = {}
    for name in names:
        match = family.match(name)
        lines = family.saved.get(match.pattern)
        if lines is None:
            found[name] = Part(name)
            continue
        for expert in range(sizes["expert"]):
            first_row = 0
            for written, line in lines.items():
                found[written.format(layer=match.layer, expert=expert)] = Part(name, expert, first_row)
                first_row += shape_of(line, sizes)[0]
    return found


def apply_mask(source: Path, mask: MaskFile, out: Path) -> SaveCheck:
    """Write the model at `source` with the mask's zeros in it, one block of a tensor in memory at a time.

    Raises:
        CheckpointError: the mask was made for another model, or is damaged; `out` holds something; the disk
            is full; or the result does not load, run and generate.
    """
    checkpoint = Checkpoint(source)
    mask.check_model(checkpoint.fingerprint(), str(source))
    mask.check()
    family = family_of(checkpoint.config)
    parts = parts_on_disk(family, family.axis_sizes(checkpoint.config), mask.shapes)
    for name in sorted(set(parts) - set(checkpoint.names())):
        raise CheckpointError(f"{source}: {name}, which the mask covers, is not there.", "Get it again.")
    shards = [dict(shard.tensors) for shard in checkpoint.shards]
    needed_bytes = checkpoint.num_bytes + _SIDE_FILES_BYTES
    needed_bytes += sum((checkpoint.path / name).stat().st_size for name in checkpoint.files())
    with new_folder(out, needed_bytes=needed_bytes) as folder:
        checkpoint.config.save_pretrained(folder)
        checkpoint.copy_files(folder)
        writer = Writer(folder, shards, checkpoint.shards[0].metadata)
        masks = _Masks(mask)
        for name in checkpoint.names():
            blocks = checkpoint.blocks(name)
            if name in parts:
                writer.add_blocks(name, _masked(blocks, masks, parts[name]))
            else:
                writer.add_blocks(name, (block for _, block in blocks))
        writer.close()
        record = {
            "pattern": str(mask.pattern),
            "mask_sha256": mask.sha256,
            "dense_model": mask.origin.model,
            "dense_fingerprint": mask.origin.fingerprint,
            "made": dict(mask.origin.made),
            "tensors": list(mask.shapes),
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return verify_saved(folder)


class _Masks:
    """The masks of a file; the last one stays unpacked, because the parts of one tensor lie side by side."""

    def __init__(self, file: MaskFile) -> None:
        self._file = file
        self._last: tuple[str, Tensor] | None = None

    def rows(self, part: Part, first: int, num: int) -> Tensor:
        """The mask of `num` rows of a part, [num, in]."""
        if self._last is None or self._last[0] != part.name:
            self._last = part.name, self._file.numbers(part.name)
        shape = self._file.shapes[part.name]
        row_groups = shape[-1] // self._file.pattern.group
        start = part.first_row + first + (0 if part.expert is None else part.expert * shape[-2])
        numbers = self._last[1][start * row_groups : (start + num) * row_groups]
        return self._file.pattern.mask(numbers, (num, shape[-1]))


def _masked(blocks: Iterator[tuple[int, Tensor]], masks: _Masks, part: Part) -> Iterator[Tensor]:
    for first, block in blocks:
        yield block.masked_fill_(~masks.rows(part, first, len(block)), 0)


@torch.no_grad()
def apply_in_memory(model: nn.Module, masks: Mapping[str, Tensor], pattern: Pattern) -> None:
    """Write the zeros of masks, tensor name -> candidate numbers [G], into a model's weights."""
    for name, numbers in masks.items():
        weight = model.get_parameter(name)
        weight.masked_fill_(~pattern.mask(numbers, weight.shape).to(weight.device), 0)


class Wardrobe:
    """One dense model in memory that wears one of several masks at a time.

    The weights that masks cover are kept once more, in the machine's memory, so that putting on mask A and
    then B is the same as putting B on the untouched model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._dense: dict[str, Tensor] = {}

    @torch.no_grad()
    def wear(self, mask: MaskFile | None) -> None:
        """Put a mask on in place of the one before; None is the dense model.

        Raises:
            CheckpointError: the file is damaged, or covers a tensor that the model has not.
        """
        numbers = {} if mask is None else mask.load()
        for name in numbers:
            assert mask is not None
            module, own = owner(self._model, name)
            if tuple(getattr(module, own).shape) != mask.shapes[name]:
                raise CheckpointError(
                    f"{mask.path}: {name} has another shape in this model.", "Use a mask made for it."
                )
        for name, weight in self._dense.items():
            self._model.get_parameter(name).copy_(weight)
        for name in numbers:
            if name not in self._dense:
                self._dense[name] = self._model.get_parameter(name).detach().to("cpu", copy=True)
        if mask is not None:
            apply_in_memory(self._model, numbers, mask.pattern)
