"""The second stage of a sparsify run: the objective that the mask is trained on, and the training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.distillation.fused import linear_distillation
from niwaki.distillation.train import distillation_loss, hidden_states, next_token_loss
from niwaki.ground import processes
from niwaki.ground.adam8 import AdamW8bit
from niwaki.ground.head import check_head
from niwaki.ground.loop import Loss
from niwaki.ground.run import write_atomically
from niwaki.ground.stream import Batch
from niwaki.masks.difference import differences
from niwaki.masks.file import MaskFile, save
from niwaki.masks.learn import Masked, learn_masks
from niwaki.masks.tensors import maskable
from niwaki.pipelines.inputs import evaluate_every_steps
from niwaki.pipelines.sparsify_inputs import LEARNED_MASK, PRIOR, PRIOR_MASK, SparsifyInputs

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adamw_8bit": AdamW8bit,
}


def distill_from_itself(masked: Masked) -> Loss:
    """Forward KL from the dense model, which is this very model with its masks open: no second copy of it."""

    def to_dense(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        with torch.no_grad(), masked.dense():
            dense_hidden, head = hidden_states(model, batch["inputs"])
        hidden, _ = hidden_states(model, batch["inputs"])
        total, divergence, cross_entropy = linear_distillation(
            hidden, head, dense_hidden, head, batch["targets"], batch["mask"]
        )
        return total, {"kl": divergence, "cross_entropy": cross_entropy}

    return to_dense


def objective(name: str, *, dense: PreTrainedModel | None = None) -> Callable[[Masked], Loss]:
    """What `learn_masks` asks for.

    Args:
        name: "lm" or "distill".
        dense: the model to be near, where the masked weights are not its own (SparseGPT's update).
    """
    if name == "lm":
        return lambda masked: next_token_loss
    if dense is None:
        return distill_from_itself
    return lambda masked: distillation_loss(dense)


def learn(inputs: SparsifyInputs, folder: Path) -> dict[str, Any]:
    """Train the mask, save it as `learned.mask`; what `learn.json` holds.

    Returns:
        {"steps", "tokens", "held_out": {name: value at the end}, "difference": {"groups", "entries"} or
        None, "layers": {layer: share of entries that differ from the prior}}.
    """
    recipe, settings = inputs.recipe, inputs.recipe.learn
    assert settings is not None
    prior_record = json.loads((inputs.run / PRIOR / "prior.json").read_text())
    shapes = maskable(inputs.checkpoint.config, inputs.pattern, prior_record["dense"])
    prior = None
    if prior_record["method"] != "none":
        prior = MaskFile(inputs.run / PRIOR / PRIOR_MASK).load()
    model = inputs.load(inputs.masked_folder)
    check_head(model)
    dense = None
    if recipe.prior.update and settings.objective == "distill":
        dense = inputs.load(inputs.folder)
    learned = learn_masks(
        model,
        inputs.texts.train,
        objective(settings.objective, dense=dense),
        out=folder,
        pattern=inputs.pattern,
        prior=prior,
        dense=prior_record["dense"],
        prior_strength=settings.prior_strength,
        init_std=settings.init_std,
        kappa=settings.kappa,
        tau=settings.tau,
        hard=settings.hard,
        regularization=settings.regularization,
        reg_decay=settings.reg_decay,
        gate_dtype=getattr(torch, settings.gates),
        num_steps=recipe.num_steps,
        seed=recipe.seed,
        batch_rows=recipe.batch_rows,
        micro_rows=settings.micro_rows,
        learning_rate=settings.learning_rate,
        min_learning_rate=settings.min_learning_rate,
        warmup_steps=recipe.warmup_steps,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        precision=settings.precision,
        checkpointing=settings.checkpointing,
        optimizer=OPTIMIZERS[settings.optimizer],
        trackers=settings.trackers,
        save_every_steps=settings.save_every_steps,
        held_out=inputs.texts.held_out,
        held_out_rows=inputs.texts.num_curve_rows,
        evaluate_every_steps=evaluate_every_steps(recipe.num_steps),
    )
    made = inputs.origin(
        method="learned", objective=settings.objective, steps=recipe.num_steps, prior=prior_record["method"]
    )
    processes.by_main(
        lambda: save(folder / LEARNED_MASK, learned.masks, shapes, inputs.pattern, made, replace=True)
    )
    record: dict[str, Any] = {
        "steps": learned.fit.step,
        "tokens": learned.fit.tokens,
        "held_out": learned.fit.held_out,
        "difference": None,
        "layers": {},
    }
    if prior is not None:
        whole, each = differences(learned.masks, prior, inputs.pattern)
        record["difference"] = {"groups": whole.groups, "entries": whole.entries}
        for layer in sorted({inputs.layer_of(name) for name in each}):
            inside = [found for name, found in each.items() if inputs.layer_of(name) == layer]
            total = sum(found.num_groups for found in inside)
            record["layers"][layer] = sum(found.entries * found.num_groups for found in inside) / total
    return record


@processes.main_only
def write_record(path: Path, record: dict[str, Any]) -> None:
    """JSON that a reader sees whole or not at all; the main process writes it."""
    write_atomically(path, json.dumps(record, indent=1))
