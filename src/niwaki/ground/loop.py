"""The one training loop.

In: a model, a stream of rows, a loss. Out: the trained model in place, `metrics.jsonl`, snapshots that
resume exactly. It runs as it is on one device, and under `accelerate launch` or `torchrun` on many.

The loss is a function `loss(model, batch) -> (sum over targets, {name: sum over targets})`. The loop
divides by the number of targets in the whole global batch, so micro-batches, accumulation and the number
of processes change nothing but rounding.

Everything that varies is a function of the step: row numbers, learning rate, and the random seed that is
set before each micro-batch. So a resumed run needs weights, optimiser moments and the step; on one CPU it
ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from niwaki.errors import TrainingError
from niwaki.ground import snapshot
from niwaki.ground.metrics import MetricsFile
from niwaki.ground.progress import progress
from niwaki.ground.stream import Batch

Loss = Callable[[nn.Module, Batch], tuple[Tensor, Mapping[str, Tensor]]]
Precision = Literal["auto", "float32", "bfloat16"]
_GROUPS_OF_A_PART = 2


class RowSource(Protocol):
    """Rows by number, each the same whenever it is asked for (`stream.Rows`)."""

    def take(self, start: int, count: int) -> Batch:
        """Rows start .. start + count, with a boolean `mask` that marks the targets."""
        ...


@dataclass(frozen=True)
class FitResult:
    """Where training ended: `tokens` counts the targets seen, `held_out` holds the last evaluation."""

    step: int
    tokens: int
    held_out: dict[str, float]


def resolve_precision(precision: Precision) -> Precision:
    """What "auto" means on this machine; anything else as it is."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.cpu.get_capabilities().get("avx512_bf16") else "float32"


class Objective(nn.Module):
    """Model and loss in one module, so that DDP and FSDP2 see the loss as the forward pass."""

    def __init__(self, model: nn.Module, loss: Loss, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.in_bfloat16 = resolve_precision(precision) == "bfloat16"

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Sum of the loss over the batch's targets, and sums of the metrics."""
        device = next(iter(batch.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.in_bfloat16):
            return self.loss(self.model, batch)


def learning_rate_at(step: int, num_steps: int, *, peak: float, minimum: float, warmup_steps: int) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `minimum` at `num_steps`. Steps count from 0."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    through = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * min(1.0, through))) / 2


def fit(
    model: nn.Module,
    rows: RowSource,
    loss: Loss,
    *,
    out: Path,
    num_steps: int,
    until_step: int | None = None,
    batch_rows: int,
    micro_rows: int,
    learning_rate: float,
    min_learning_rate: float = 0.0,
    warmup_steps: int = 0,
    rate_factors: Mapping[str, float] = MappingProxyType({"": 1.0}),
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    clip_norm: float = 1.0,
    precision: Precision = "float32",
    seed: int = 0,
    save_every_steps: int = 500,
    keep_snapshots: int = 2,
    held_out: RowSource | None = None,
    held_out_rows: int = 0,
    evaluate_every_steps: int = 0,
    trackers: Sequence[str] = (),
    before_step: Callable[[int], object] = lambda step: None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    label: str = "training",
) -> FitResult:
    """Train `model` in place for `num_steps` optimiser steps, resuming from `out` if it was begun there.

    Args:
        rows: row `step * batch_rows + i` is the i-th of the global batch of `step`.
        out: holds `metrics.jsonl` and `checkpoints/`.
        until_step: pause there, with a snapshot; everything else stays that of `num_steps`.
        batch_rows: rows of one optimiser step over all processes; `micro_rows` of them at a time.
        learning_rate: the peak; see `learning_rate_at`.
        rate_factors: part of `model` -> factor of its rate. Each is clipped on its own; "" is the whole.
        weight_decay, clip_norm: AdamW's, on matrices only; the largest norm of the whole gradient.
        precision: "bfloat16" computes matrix products under autocast; "auto" where the hardware can.
        held_out: `held_out_rows` of it get the same loss every `evaluate_every_steps` and at the end.
        trackers: of accelerate, such as "tensorboard" and "wandb".
        before_step: is told the number of each step, from 0; for what else is a function of it.
        optimizer: called like AdamW, with groups, `lr`, `betas` and `eps`.

    Raises:
        TrainingError: the batch does not divide, the loss is not finite, or a snapshot cannot be saved.
    """
    accelerator = _accelerator(trackers, out, batch_rows, micro_rows)
    objective = Objective(model, loss, precision)
    groups = [group for part in rate_factors for group in _groups(model.get_submodule(part), weight_decay)]
    stepper = optimizer(groups, lr=learning_rate, betas=betas, eps=1e-8)
    objective, stepper = accelerator.prepare(objective, stepper)
    inner = getattr(stepper, "optimizer", stepper)
    checkpoints = out / "checkpoints"
    found = snapshot.newest(checkpoints)
    first_step, num_seen = (0, 0) if found is None else snapshot.restore(found, objective, inner)
    metrics = MetricsFile(out / "metrics.jsonl", upto_step=first_step, is_main=accelerator.is_main_process)
    results: dict[str, float] = metrics.last_held_out

    def evaluate(step: int) -> None:
        nonlocal results
        if held_out is not None and held_out_rows:
            results = _evaluate(objective, held_out, held_out_rows, micro_rows, accelerator)
            record(step, {f"held_out_{k}": v for k, v in results.items()})

    def record(step: int, values: dict[str, float]) -> None:
        metrics.write({"step": step, "tokens": num_seen, **values})
        if trackers:
            accelerator.log(values, step=step)

    objective.train()
    pause = num_steps if until_step is None else min(until_step, num_steps)
    with progress(label, total=pause, start=first_step, shown=accelerator.is_main_process) as bar:
        if first_step == 0:
            evaluate(0)
        for step in range(first_step, pause):
            began = time.perf_counter()
            before_step(step)
            rate = learning_rate_at(
                step, num_steps, peak=learning_rate, minimum=min_learning_rate, warmup_steps=warmup_steps
            )
            means, num_targets = _accumulate(objective, rows, step, batch_rows, micro_rows, seed, accelerator)
            where = f"{label}: step {step}: loss {means['loss']}"
            norm = _update(objective, stepper, rate, rate_factors, clip_norm, accelerator, where=where)
            num_seen += num_targets
            speed = num_targets / (time.perf_counter() - began)
            done = step + 1
            record(done, {**means, "learning_rate": rate, "grad_norm": norm, "tokens_per_s": round(speed, 1)})
            bar.advance(f"loss {means['loss']:.4f}, {speed:,.0f} tokens/s")
            if done == num_steps or (evaluate_every_steps and done % evaluate_every_steps == 0):
                evaluate(done)
            if done == pause or done % save_every_steps == 0:
                metrics.flush()
                snapshot.save(checkpoints, (done, num_seen), objective, inner, keep=keep_snapshots)
                accelerator.wait_for_everyone()
    if trackers:
        accelerator.end_training()
    objective.eval()
    return FitResult(max(first_step, pause), num_seen, results)


def _accelerator(trackers: Sequence[str], out: Path, batch_rows: int, micro_rows: int) -> Accelerator:
    # Autocast is the objective's: accelerate's own setting is one for the whole process.
    accelerator = Accelerator(mixed_precision="no", log_with=list(trackers) or None, project_dir=str(out))
    share = micro_rows * accelerator.num_processes
    if batch_rows % share:
        raise TrainingError(
            f"batch_rows {batch_rows} does not divide into {accelerator.num_processes} process(es) x "
            f"micro_rows {micro_rows}.",
            f"Use a multiple of {share}.",
        )
    if trackers:
        accelerator.init_trackers("niwaki")
    return accelerator


def _accumulate(
    objective: nn.Module,
    rows: RowSource,
    step: int,
    batch_rows: int,
    micro_rows: int,
    seed: int,
    accelerator: Accelerator,
) -> tuple[dict[str, float], int]:
    """Gradients of one global batch; the means of its loss and metrics over all its targets."""
    share = batch_rows // accelerator.num_processes
    first = step * batch_rows + accelerator.process_index * share
    parts = [rows.take(first + i, micro_rows) for i in range(0, share, micro_rows)]
    num_targets = int(_sum(torch.tensor([sum(int(p["mask"].sum()) for p in parts)]), accelerator)[0])
    if num_targets == 0:
        raise TrainingError(
            f"step {step}: a batch without a single target.", "Mask less, or use larger batches."
        )
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        batch = {k: v.to(accelerator.device) for k, v in part.items()}
        torch.manual_seed((seed * 1_000_003 + first + number * micro_rows) % 2**63)
        last = number == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(objective):
            total, metrics = objective(batch)
            # DDP and FSDP average gradients over processes; the loss is a sum over all of them.
            accelerator.backward(total * (accelerator.num_processes / num_targets))
        for name, value in {"loss": total.detach(), **metrics}.items():
            sums[name] = sums.get(name, 0) + value.float()
    return _means(sums, num_targets, accelerator), num_targets


@torch.no_grad()
def _evaluate(
    objective: nn.Module, rows: RowSource, num_rows: int, micro_rows: int, accelerator: Accelerator
) -> dict[str, float]:
    objective.eval()
    sums: dict[str, Tensor] = {}
    targets = 0
    places = range(0, num_rows, micro_rows)
    # Every process makes the same number of forward passes, because FSDP2's are collective.
    for turn in range(math.ceil(len(places) / accelerator.num_processes)):
        number = turn * accelerator.num_processes + accelerator.process_index
        start = places[min(number, len(places) - 1)]
        batch = rows.take(start, min(micro_rows, num_rows - start))
        total, metrics = objective({k: v.to(accelerator.device) for k, v in batch.items()})
        if number < len(places):
            targets += int(batch["mask"].sum())
            for name, value in {"loss": total, **metrics}.items():
                sums[name] = sums.get(name, 0) + value.float()
    objective.train()
    num_targets = int(_sum(torch.tensor([targets]), accelerator)[0])
    return _means(sums, num_targets, accelerator)


def _update(
    objective: nn.Module,
    optimizer: Any,
    rate: float,
    rate_factors: Mapping[str, float],
    clip_norm: float,
    accelerator: Accelerator,
    *,
    where: str,
) -> float:
    """One clipped optimiser step; the norm of the gradient before clipping."""
    wrapped: Any = getattr(objective, "module", objective)
    parts = [wrapped.model.get_submodule(part) for part in rate_factors]
    norm = math.hypot(*(float(accelerator.clip_grad_norm_(p.parameters(), clip_norm)) for p in parts))
    # A loss that is not finite has no finite gradient.
    if not math.isfinite(norm):
        raise TrainingError(
            f"{where}, gradient norm {norm}.",
            f"The snapshots are from before it: lower `learning_rate` (now {rate:.3g}), or look for damaged "
            "rows.",
        )
    factors = [factor for factor in rate_factors.values() for _ in range(_GROUPS_OF_A_PART)]
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] = rate * factor
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _means(sums: Mapping[str, Tensor], num_targets: int, accelerator: Accelerator) -> dict[str, float]:
    totals = _sum(torch.stack(list(sums.values())).double(), accelerator)
    return {name: float(total) / num_targets for name, total in zip(sums, totals, strict=True)}


def _sum(values: Tensor, accelerator: Accelerator) -> Tensor:
    if accelerator.num_processes == 1:
        return values
    reduced: Tensor = accelerator.reduce(values.to(accelerator.device), reduction="sum")
    return reduced


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW parameter groups: matrices decay, norms and biases do not; frozen parameters are left out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
