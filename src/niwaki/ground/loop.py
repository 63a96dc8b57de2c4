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
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from niwaki.errors import TrainingError
from niwaki.ground import processes, snapshot
from niwaki.ground.metrics import MetricsFile
from niwaki.ground.progress import progress
from niwaki.ground.spread import clip_norm_, recomputing, spread, unsynchronised
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
    checkpointing: bool = False,
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
        checkpointing: keep the inputs of layers alone, and run each layer again for its backward pass.
        held_out: `held_out_rows` of it get the same loss every `evaluate_every_steps` and at the end.
        trackers: of accelerate, such as "tensorboard" and "wandb".
        before_step: is told the number of each step, from 0; for what else is a function of it.
        optimizer: called like AdamW, with groups, `lr`, `betas` and `eps`.

    Raises:
        TrainingError: the batch does not divide, the loss is not finite, or a snapshot cannot be saved.
    """
    accelerator = _accelerator(trackers, out, batch_rows, micro_rows)
    device, checkpoints = accelerator.device, out / "checkpoints"
    objective = Objective(model, loss, precision).to(device)
    rate_at = partial(
        learning_rate_at, num_steps=num_steps, peak=learning_rate, minimum=min_learning_rate,
        warmup_steps=warmup_steps,
    )  # fmt: skip
    pause = num_steps if until_step is None else min(until_step, num_steps)
    with recomputing(model, checkpointing), spread(objective) as trained:
        groups = [g for part in rate_factors for g in _groups(model.get_submodule(part), weight_decay)]
        stepper = optimizer(groups, lr=learning_rate, betas=betas, eps=1e-8)
        found = snapshot.newest(checkpoints, keep=keep_snapshots)
        first_step, num_seen = (0, 0) if found is None else snapshot.restore(found, trained, stepper)
        metrics = MetricsFile(out / "metrics.jsonl", upto_step=first_step)
        results: dict[str, float] = metrics.last_held_out

        def evaluate(step: int) -> None:
            nonlocal results
            if held_out is not None and held_out_rows:
                results = _evaluate(trained, held_out, held_out_rows, micro_rows, device)
                record(step, {f"held_out_{k}": v for k, v in results.items()})

        def record(step: int, values: dict[str, float]) -> None:
            metrics.write({"step": step, "tokens": num_seen, **values})
            accelerator.log(values, step=step)

        trained.train()
        with progress(label, total=pause, start=first_step, shown=processes.is_main()) as bar:
            if first_step == 0:
                evaluate(0)
            for step in range(first_step, pause):
                began = time.perf_counter()
                before_step(step)
                means, num_targets = _accumulate(trained, rows, step, batch_rows, micro_rows, seed, device)
                where = f"{label}: step {step}: loss {means['loss']}"
                taken = _update(objective, stepper, rate_at(step), rate_factors, clip_norm, where=where)
                num_seen += num_targets
                speed = round(num_targets / (time.perf_counter() - began), 1)
                done = step + 1
                record(done, {**means, **taken, "tokens_per_s": speed})
                bar.advance(f"loss {means['loss']:.4f}, {speed:,.0f} tokens/s")
                if done == num_steps or (evaluate_every_steps and done % evaluate_every_steps == 0):
                    evaluate(done)
                if done == pause or done % save_every_steps == 0:
                    metrics.flush()
                    snapshot.save(checkpoints, (done, num_seen), trained, stepper, keep=keep_snapshots)
    for tracker in accelerator.trackers:  # `end_training` would part the processes as well
        tracker.finish()
    objective.eval()
    return FitResult(max(first_step, pause), num_seen, results)


def check_divides(batch_rows: int, micro_rows: int, words: str = "batch_rows {} does") -> None:
    """Refuse a global batch that the processes cannot share out in whole micro-batches.

    `words` name it to the user, with {} for the number of rows.

    Raises:
        TrainingError: says what would divide.
    """
    share = micro_rows * processes.count()
    if batch_rows % share:
        raise TrainingError(
            f"{words.format(batch_rows)} not divide into {processes.count()} process(es) x "
            f"micro_rows {micro_rows}.",
            f"Use a multiple of {share} rows.",
        )


def _accelerator(trackers: Sequence[str], out: Path, batch_rows: int, micro_rows: int) -> Accelerator:
    check_divides(batch_rows, micro_rows)
    # Autocast is the objective's: accelerate's own setting is one for the whole process.
    accelerator = Accelerator(mixed_precision="no", log_with=list(trackers) or None, project_dir=str(out))
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
    device: torch.device,
) -> tuple[dict[str, float], int]:
    """Gradients of one global batch; the means of its loss and metrics over all its targets."""
    share = batch_rows // processes.count()
    first = step * batch_rows + processes.number() * share
    parts = [rows.take(first + i, micro_rows) for i in range(0, share, micro_rows)]
    num_targets = int(_sum(torch.tensor([sum(int(p["mask"].sum()) for p in parts)], device=device))[0])
    if num_targets == 0:
        raise TrainingError(
            f"step {step}: a batch without a single target.", "Mask less, or use larger batches."
        )
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        batch = {k: v.to(device) for k, v in part.items()}
        torch.manual_seed((seed * 1_000_003 + first + number * micro_rows) % 2**63)
        last = number == len(parts) - 1
        with nullcontext() if last else unsynchronised(objective):
            total, metrics = objective(batch)
            # DDP and FSDP2 average gradients over processes; the loss is a sum over all of them.
            (total * (processes.count() / num_targets)).backward()
        for name, value in {"loss": total.detach(), **metrics}.items():
            sums[name] = sums.get(name, 0) + value.float()
    return _means(sums, num_targets), num_targets


@torch.no_grad()
def _evaluate(
    objective: nn.Module, rows: RowSource, num_rows: int, micro_rows: int, device: torch.device
) -> dict[str, float]:
    objective.eval()
    sums: dict[str, Tensor] = {}
    targets = 0
    places = range(0, num_rows, micro_rows)
    # Every process makes the same number of forward passes, because FSDP2's are collective.
    for turn in range(math.ceil(len(places) / processes.count())):
        number = turn * processes.count() + processes.number()
        start = places[min(number, len(places) - 1)]
        batch = rows.take(start, min(micro_rows, num_rows - start))
        total, metrics = objective({k: v.to(device) for k, v in batch.items()})
        if number < len(places):
            targets += int(batch["mask"].sum())
            for name, value in {"loss": total, **metrics}.items():
                sums[name] = sums.get(name, 0) + value.float()
    objective.train()
    num_targets = int(_sum(torch.tensor([targets], device=device))[0])
    return _means(sums, num_targets)


def _update(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    rate: float,
    rate_factors: Mapping[str, float],
    clip_norm: float,
    *,
    where: str,
) -> dict[str, float]:
    """One clipped optimiser step; its rate, and the norm of the gradient before clipping."""
    parts = [objective.model.get_submodule(part) for part in rate_factors]
    norm = math.hypot(*(clip_norm_(p.parameters(), clip_norm) for p in parts))
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
    return {"learning_rate": rate, "grad_norm": norm}


def _means(sums: Mapping[str, Tensor], num_targets: int) -> dict[str, float]:
    totals = _sum(torch.stack(list(sums.values())).double())
    return {name: float(total) / num_targets for name, total in zip(sums, totals, strict=True)}


def _sum(values: Tensor) -> Tensor:
    if processes.count() > 1:  # in step with one another, so none has to be waited for as in `add_up`
        distributed.all_reduce(values)
    return values


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW parameter groups: matrices decay, norms and biases do not; frozen parameters are left out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
