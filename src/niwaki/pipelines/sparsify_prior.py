"""The first stage of a sparsify run: a mask in one shot, which layers stay dense, and updated weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.evaluation.loss import held_out_loss
from niwaki.ground import processes
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.checkpoint_writer import Writer
from niwaki.ground.family import family_of
from niwaki.ground.folder import new_folder
from niwaki.ground.saved import verify_saved
from niwaki.ground.streamed import load_or_stream
from niwaki.masks.apply import parts_on_disk
from niwaki.masks.difference import sensitivity
from niwaki.masks.file import MaskFile, save, writing
from niwaki.masks.oneshot import Method, Pruned, one_shot
from niwaki.masks.tensors import Shapes, maskable
from niwaki.pipelines.inputs import compute_dtype, device
from niwaki.pipelines.sparsify_inputs import PRIOR_MASK, SparsifyInputs

_BATCH_ROWS = 8
_SIDE_FILES_BYTES = 1 << 24


def make_prior(inputs: SparsifyInputs, folder: Path) -> dict[str, Any]:
    """Write `prior.mask`, and `model/` where weights are updated; what `prior.json` holds.

    Collective: several processes share out the calibration rows; the main one writes.

    Returns:
        {"method", "update", "dense": names left dense, "sensitivity": {layer: nats} or None}.
    """
    recipe = inputs.recipe
    prior = recipe.prior
    record: dict[str, Any] = {
        "method": "mask" if prior.mask else prior.method,
        "update": prior.update,
        "dense": list(recipe.dense),
        "sensitivity": None,
    }
    if prior.method == "none":
        return record
    if prior.mask is not None:
        processes.by_main(lambda: _copy(inputs.given_mask(), folder / PRIOR_MASK))
        return record
    if recipe.dense_layers:
        record["sensitivity"] = layer_sensitivity(inputs, inputs.folder, dict(_numbers(inputs, recipe.dense)))
        ranked = sorted(record["sensitivity"], key=lambda layer: -record["sensitivity"][layer])
        record["dense"] += [f"layer {layer}" for layer in sorted(ranked[: recipe.dense_layers])]
    shapes = maskable(inputs.checkpoint.config, inputs.pattern, record["dense"])
    model = load_or_stream(inputs.folder, dtype=compute_dtype(), device=device())
    pruned = prune(inputs, model, prior.method, update=prior.update, dense=record["dense"])
    if not processes.is_main():
        for _ in pruned:  # heard together; the main process writes
            pass
        return record
    if prior.update:
        numbers = _write_updated(inputs, pruned, shapes, folder / "model")
        made = inputs.origin(method=prior.method, update=True)
        save(folder / PRIOR_MASK, numbers, shapes, inputs.pattern, made, replace=True)
        return record
    made = inputs.origin(method=prior.method, update=False)
    with writing(folder / PRIOR_MASK, shapes, inputs.pattern, made, replace=True) as file:
        for each in pruned:
            file.add(each.name, each.numbers)
    return record


def prune(
    inputs: SparsifyInputs, model: PreTrainedModel, method: Method, *, update: bool, dense: Sequence[str]
) -> Iterator[Pruned]:
    """One-shot masks with the recipe's settings. Collective, see `one_shot`."""
    prior = inputs.recipe.prior
    return one_shot(
        model,
        inputs.texts.calibration,
        pattern=inputs.pattern,
        method=method,
        update=update,
        dense=dense,
        num_samples=prior.num_samples,
        batch_rows=prior.batch_rows,
        damping=prior.damping,
        block_columns=prior.block_columns,
    )


def layer_sensitivity(inputs: SparsifyInputs, folder: Path, numbers: dict[str, Tensor]) -> dict[int, float]:
    """Nats per token that each layer of a model costs when it alone is masked, on calibration rows."""
    model = inputs.load(folder)

    def loss() -> float:
        found = held_out_loss(
            model,
            inputs.texts.calibration,
            num_rows=inputs.recipe.evaluate.sensitivity_rows,
            batch_rows=_BATCH_ROWS,
        )
        return found.nats_per_token.mean

    _, layers = sensitivity(model, numbers, inputs.pattern, inputs.layer_of, loss)
    return layers


def _copy(given: MaskFile, out: Path) -> None:
    save(out, given.load(), given.shapes, given.pattern, given.origin, replace=True)


def _numbers(inputs: SparsifyInputs, dense: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The recipe's one-shot mask of everything, without an update."""
    method = inputs.recipe.prior.method
    assert method != "none"
    model = load_or_stream(inputs.folder, dtype=compute_dtype(), device=device())
    for each in prune(inputs, model, method, update=False, dense=dense):
        yield each.name, each.numbers


def _write_updated(
    inputs: SparsifyInputs, pruned: Iterator[Pruned], shapes: Shapes, out: Path
) -> dict[str, Tensor]:
    """Write the model with updated weights where the mask keeps them; the masks' numbers.

    What the mask drops keeps its value: the zeros come when the mask is applied, and a mask that is learned
    from here on may want it back.
    """
    checkpoint = inputs.checkpoint
    family = family_of(checkpoint.config)
    parts = parts_on_disk(family, family.axis_sizes(checkpoint.config), shapes)
    on_disk: dict[str, list[str]] = {}
    for disk_name, part in parts.items():
        on_disk.setdefault(part.name, []).append(disk_name)
    numbers: dict[str, Tensor] = {}
    needed_bytes = checkpoint.num_bytes + _SIDE_FILES_BYTES
    with new_folder(out, needed_bytes=needed_bytes, replace=True) as folder:
        checkpoint.config.save_pretrained(folder)
        checkpoint.copy_files(folder)
        shards = [dict(shard.tensors) for shard in checkpoint.shards]
        writer = Writer(folder, shards, checkpoint.shards[0].metadata)
        for each in pruned:
            numbers[each.name] = each.numbers
            assert each.updated is not None
            mask = inputs.pattern.mask(each.numbers, each.updated.shape)
            for disk_name in on_disk[each.name]:
                part = parts[disk_name]
                dense = checkpoint.read(disk_name)
                rows = slice(part.first_row, part.first_row + len(dense))
                own = (rows,) if part.expert is None else (part.expert, rows)
                updated = each.updated[own].to("cpu", dense.dtype)
                writer.add(disk_name, torch.where(mask[own], updated, dense))
        for name in checkpoint.names():
            if name not in parts:
                writer.add_blocks(name, (block for _, block in checkpoint.blocks(name)))
        writer.close()
        verify_saved(folder)
    assert Checkpoint(out).names() == checkpoint.names()
    return numbers
