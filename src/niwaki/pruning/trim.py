"""Trim: from a model folder to a smaller one, tensor by tensor (Minitron, section 2.2 "Trimming").

In: a Hugging Face folder and the indices to keep. Out: a Hugging Face folder of the same family, in which
every tensor is cut along the axes that its line in the family's table names, and `trim.json`, which says what
was kept. Tensors are read, cut and written a few rows at a time, so that none is ever in memory whole; with
edits, one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

import niwaki
from niwaki.errors import CheckpointError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.checkpoint_writer import Writer
from niwaki.ground.family import Family, family_of
from niwaki.ground.folder import check_free, new_folder
from niwaki.ground.saved import verify_saved
from niwaki.ground.shard import Spec
from niwaki.pruning.edit import Edit
from niwaki.pruning.keep import kept_sizes

RECORD = "trim.json"

_SIDE_FILES_BYTES = 1 << 20


@dataclass(frozen=True)
class TrimRecord:
    """What a trim kept; saved as `trim.json` beside the model.

    Attributes:
        parent: the name of the source folder.
        parent_fingerprint: `Checkpoint.fingerprint()` of the source.
        parent_sizes, sizes: axis -> size, before and after.
        num_parent_parameters, num_parameters: before and after; a tied head counts once.
        keep: axis -> kept original indices, shaped as they were given; absent axes were kept whole. After a
            rotation, `hidden` numbers the rotated channels.
        dropped_layers: the names in the source of the layers that went, such as model.layers.3.
        edits: names of what was done to the weights before the cut.
        checked: "weights" or "shapes"; see `niwaki.ground.saved.SaveCheck`.
        versions: of niwaki, torch and transformers.
    """

    parent: str
    parent_fingerprint: str
    parent_sizes: dict[str, int]
    sizes: dict[str, int]
    num_parent_parameters: int
    num_parameters: int
    keep: dict[str, list[Any]]
    dropped_layers: list[str]
    edits: list[str]
    checked: str
    versions: dict[str, str]

    def save(self, path: Path) -> None:
        """Write the record as JSON, a field to a line (indenting millions of indices takes seconds)."""
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in vars(self).items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> TrimRecord:
        """Read a record that `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class _Plan:
    """Every tensor of the trimmed model, shard by shard as in the source, before anything is read."""

    shards: list[dict[str, Spec]]
    sources: dict[str, _Source]  # by name in the trimmed model


@dataclass(frozen=True)
class _Source:
    """A tensor's name in the source, and under which its values are stored (a tied head: the embedding)."""

    name: str
    stored: str


def trim(source: Path, out: Path, *, keep: Mapping[str, Tensor], edits: Sequence[Edit] = ()) -> TrimRecord:
    """Cut a model folder down to the indices in `keep`.

    Keeping everything gives bit-identical weights. The output has the shards of the source, each cut. When
    `out` already holds the result of this very trim, it is left alone.

    Args:
        source: a Hugging Face folder with safetensors weights.
        out: the folder to make; it appears when it is complete and checked.
        keep: axis -> original indices that survive; see `docs/architecture.md` for their shapes.
        edits: what to do to the weights before they are cut, in this order.

    Raises:
        FamilyError: an unknown family or tensor, or `keep` does not fit the model.
        CheckpointError: the source is damaged, quantized, or holds values that are not finite; `out` holds
            something else; the disk is full; or the result does not load, run and generate.
    """
    source, out = Path(source), Path(out)
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.config)
    sizes = family.axis_sizes(checkpoint.config)
    new_sizes = kept_sizes(family, sizes, keep)
    _check_source(checkpoint, family, sizes)
    config = family.resize(checkpoint.config, new_sizes, keep)
    unties = family.tied and any(edit.unties for edit in edits)
    new_family = replace(family, tied=False) if unties else family
    if unties:
        config.tie_word_embeddings = False
    plan = _plan(checkpoint, new_family, sizes, new_sizes, keep, unties=unties)
    facts: dict[str, Any] = {
        "parent": source.resolve().name,
        "parent_fingerprint": checkpoint.fingerprint(),
        "parent_sizes": sizes,
        "sizes": new_sizes,
        "num_parent_parameters": family.count(sizes, tied=family.tied),
        "num_parameters": new_family.count(new_sizes, tied=new_family.tied),
        "keep": {axis: indices.tolist() for axis, indices in keep.items()},
        "dropped_layers": _dropped_layers(family, sizes, keep),
        "edits": [edit.name for edit in edits],
        "versions": {
            "niwaki": niwaki.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    done = _same_trim(out, facts)
    if done is not None:
        return done
    needed_bytes = sum(spec.num_bytes for shard in plan.shards for spec in shard.values())
    needed_bytes += sum((source / name).stat().st_size for name in checkpoint.files()) + _SIDE_FILES_BYTES
    with new_folder(out, needed_bytes=needed_bytes) as folder:
        config.save_pretrained(folder)
        checkpoint.copy_files(folder)
        _stream(checkpoint, new_family, sizes, keep, edits, plan, folder)
        record = TrimRecord(**facts, checked=verify_saved(folder).loaded)
        record.save(folder / RECORD)
    return record


def _dropped_layers(family: Family, sizes: Mapping[str, int], keep: Mapping[str, Tensor]) -> list[str]:
    kept = set(keep["layer"].tolist() if "layer" in keep else range(sizes["layer"]))
    return [family.layer_prefix.format(layer=n) for n in range(sizes["layer"]) if n not in kept]


def _check_source(checkpoint: Checkpoint, family: Family, sizes: Mapping[str, int]) -> None:
    """Refuse a source whose tensors are not exactly those that its config asks for."""
    if getattr(checkpoint.config, "quantization_config", None):
        raise CheckpointError(
            f"{checkpoint.path}: the weights are quantized (quantization_config in config.json).",
            "Trim the bf16 or fp32 checkpoint, and quantize the result.",
        )
    found = {name: checkpoint.shape(name) for name in checkpoint.names() if not family.is_unread(name)}
    _check_shapes(found, family, sizes, f"{checkpoint.path}")


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], family: Family, sizes: Mapping[str, int], where: str
) -> None:
    """Check that tensors on disk are exactly those of a model of `sizes`; a tied head may be stored too."""
    expected = family.shapes(sizes, saved=True)
    tied_head = {f"{family.head}.weight"} if family.tied else set()
    remedy = "The weights do not belong to this config.json; get the whole folder again."
    for name in sorted(expected.keys() - found.keys()):
        raise CheckpointError(f"{where}: {name} is missing, expected with shape {expected[name]}.", remedy)
    for name in sorted(found.keys() - expected.keys() - tied_head):
        pattern = family.match(name).pattern
        raise CheckpointError(f"{where}: {name} ({pattern}) is one too many for sizes {dict(sizes)}.", remedy)
    for name, shape in found.items():
        wanted = expected.get(name) or family.shapes(sizes)[name]
        if shape != wanted:
            raise CheckpointError(f"{where}: {name} has shape {shape}, expected {wanted}.", remedy)
    num_found = sum(prod(found[name]) for name in expected)
    if num_found != family.count(sizes, tied=family.tied):
        raise CheckpointError(
            f"{where}: {num_found} parameters, expected {family.count(sizes, tied=family.tied)}.", remedy
        )


def _plan(
    checkpoint: Checkpoint,
    family: Family,
    sizes: Mapping[str, int],
    new_sizes: Mapping[str, int],
    keep: Mapping[str, Tensor],
    *,
    unties: bool,
) -> _Plan:
    """See how every tensor will be cut, and check the result against the table of the smaller model."""
    shards: list[dict[str, Spec]] = []
    sources: dict[str, _Source] = {}
    for shard in checkpoint.shards:
        planned: dict[str, Spec] = {}
        for name, spec in shard.tensors.items():
            cut = family.cut(name, sizes, keep)
            if cut is not None:
                planned[cut.name] = Spec(spec.dtype, cut.shape)
                sources[cut.name] = _Source(name, name)
        if planned:
            shards.append(planned)
    head, embedding = f"{family.head}.weight", f"{family.embedding}.weight"
    if unties and head not in sources:  # some published checkpoints store a tied head too
        cut = family.cut(head, sizes, keep)
        assert cut is not None, head
        shards[-1][head] = Spec(checkpoint.dtype(embedding), cut.shape)
        sources[head] = _Source(head, embedding)
    found = {name: spec.shape for shard in shards for name, spec in shard.items()}
    _check_shapes(found, family, new_sizes, f"{checkpoint.path} after the trim")
    return _Plan(shards, sources)


def _stream(
    checkpoint: Checkpoint,
    family: Family,
    sizes: Mapping[str, int],
    keep: Mapping[str, Tensor],
    edits: Sequence[Edit],
    plan: _Plan,
    folder: Path,
) -> None:
    writer = Writer(folder, plan.shards, checkpoint.shards[0].metadata)
    total_bytes = sum(checkpoint.spec(source.stored).num_bytes for source in plan.sources.values())
    with _progress() as progress:
        task = progress.add_task("trim", total=total_bytes)
        for new_name, source in plan.sources.items():
            cut = family.cut(source.name, sizes, keep)
            assert cut is not None, new_name
            blocks = _edited(checkpoint, source, edits) if edits else checkpoint.blocks(source.stored)
            writer.add_blocks(new_name, (cut.take(block, first) for first, block in blocks))
            progress.advance(task, checkpoint.spec(source.stored).num_bytes)
    writer.close()


def _edited(checkpoint: Checkpoint, source: _Source, edits: Sequence[Edit]) -> Iterator[tuple[int, Tensor]]:
    """One tensor, edited, as a single block of rows."""
    tensor = checkpoint.read(source.stored)
    for edit in edits:
        tensor = edit.apply(source.name, tensor)
    yield 0, tensor


def _progress() -> Progress:
    """A bar with the bytes read and the time left, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _same_trim(out: Path, facts: Mapping[str, Any]) -> TrimRecord | None:
    """The record of `out` when it is complete and came from the same source and `keep`."""
    if not (out / RECORD).is_file():
        check_free(out)
        return None
    try:
        record = TrimRecord.load(out / RECORD)
    except (ValueError, TypeError):  # of another tool, or another version of niwaki
        record = None
    if record is None or vars(record) != {**facts, "checked": record.checked}:
        check_free(out)
    Checkpoint(out)
    return record
