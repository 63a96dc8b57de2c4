"""A step of mask learning against a dense training step of the same model: processor seconds, medians.

    python benchmarks/mask_step/run.py [--model sapling] [--rows 8] [--tokens 256]

Both run in turns in one process, with the language-model loss and with AdamW. The dense step trains every
weight; the other one trains the logits of the masks, with the regulariser. "distill" adds the dense pass.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import torch

from niwaki.distillation.train import next_token_loss
from niwaki.ground.loop import Loss
from niwaki.ground.model import load_model
from niwaki.masks.gumbel import Gate, Temperature, install, squared_norms
from niwaki.masks.learn import Masked
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import maskable
from niwaki.pipelines.sparsify_learn import distill_from_itself

ROUNDS = 5


def step(model: Any, optimizer: torch.optim.Optimizer, loss: Loss, batch: Any, gates: Any) -> float:
    began = time.process_time()
    with squared_norms(gates) as norms:
        total, _ = loss(model, batch)
    if norms:
        total = total - 1e-5 * torch.stack(norms).sum()
    total.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sapling")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dense = load_model(arguments.model, dtype=torch.float32).train()
    masked = copy.deepcopy(dense)
    pattern, temperature = Pattern.parse("2:4"), Temperature(100.0, 4.0)
    gates = {
        name: Gate(shape, pattern, temperature) for name, shape in maskable(dense.config, pattern).items()
    }
    install(masked, gates)
    masked.train()
    shape = (arguments.rows, arguments.tokens)
    ids = torch.randint(0, dense.config.vocab_size, shape)
    batch = {"inputs": ids, "targets": ids, "mask": torch.ones(shape, dtype=torch.bool)}
    optimizers = [
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        for model in (dense, masked)
    ]
    to_dense = distill_from_itself(Masked(masked, gates))
    times: dict[str, list[float]] = {"dense": [], "mask, lm": [], "mask, distill": []}
    for turn in range(ROUNDS + 1):
        found = {
            "dense": step(dense, optimizers[0], next_token_loss, batch, {}),
            "mask, lm": step(masked, optimizers[1], next_token_loss, batch, gates),
            "mask, distill": step(masked, optimizers[1], to_dense, batch, gates),
        }
        for name, value in found.items():
            if turn:  # the first one warms up
                times[name].append(value)
    base = statistics.median(times["dense"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:14} {median:.3f} CPU-s, {median / base:.2f} of dense")


if __name__ == "__main__":
    main()
