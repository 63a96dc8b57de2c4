"""D9: with half the layers gone, one block beats scattered layers on a task (2408.11796, depth pruning).

For each calibration set, the layers are chosen by LM loss: the block whose removal hurts least (the last
layer stays), and the single layers whose removal hurts least.
"""

from __future__ import annotations

from typing import Any

import torch
from continuation import accuracy
from lab import RUNS, SEEDS, Bench, conclude, mean, opened, run_arm
from statistics_of_arms import Comparison, interval, verdict
from transformers import AutoModelForCausalLM, PreTrainedModel

from niwaki.evaluation.loss import held_out_loss

NUM_QUESTIONS = 480
MEASURED_ROWS = 16


def removed(bench: Bench, seed: int) -> dict[str, list[int]]:
    """Layers to drop, "block" and "scattered", by LM loss on 16 calibration rows."""
    num_layers = bench.model.config.num_hidden_layers
    num_dropped = num_layers - bench.teacher.deep["layer"]

    def loss(dropped: list[int]) -> float:
        kept = torch.tensor([layer for layer in range(num_layers) if layer not in dropped])
        rows = bench.calibration(seed)
        found = held_out_loss(bench.cut({"layer": kept}), rows, num_rows=MEASURED_ROWS, batch_rows=8)
        return found.nats_per_token.mean

    blocks = [list(range(start, start + num_dropped)) for start in range(num_layers - num_dropped)]
    singles = sorted(range(num_layers - 1), key=lambda layer: loss([layer]))
    return {"block": min(blocks, key=loss), "scattered": sorted(singles[:num_dropped])}


def main() -> None:
    bench = opened(__doc__)
    num_layers = bench.model.config.num_hidden_layers
    arms: dict[str, list[dict[str, Any]]] = {"block": [], "scattered": []}
    tasks: dict[str, dict[str, list[float]]] = {}
    dropped_layers: dict[str, list[list[int]]] = {"block": [], "scattered": []}
    for seed in SEEDS:
        for name, dropped in removed(bench, seed).items():
            kept = torch.tensor([layer for layer in range(num_layers) if layer not in dropped])
            place = "-".join(map(str, dropped))

            def make(b: Bench, s: int, kept: torch.Tensor = kept) -> PreTrainedModel:
                return b.cut({"layer": kept})

            arms[name].append(run_arm(bench, f"without-{place}-kl", seed, make, save=True))
            dropped_layers[name].append(dropped)
            trained = RUNS / bench.teacher.name / f"without-{place}-kl" / str(seed) / "model"
            for when, model in (
                ("before", make(bench, seed)),
                ("after", AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)),
            ):
                found = accuracy(model, bench.held_out, num_questions=NUM_QUESTIONS)
                tasks.setdefault(when, {}).setdefault(name, []).append(found)
    on_task = []
    for when in ("before", "after"):
        pairs = zip(tasks[when]["block"], tasks[when]["scattered"], strict=True)
        differences = [block - scattered for block, scattered in pairs]
        centre, low, high = interval(differences)
        on_task.append(
            {
                "when": when,
                "difference": round(centre, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "verdict": verdict(-high, -low, None),
            }
        )
    conclude(
        bench,
        "d9",
        "one contiguous block beats scattered layers on a task, though LM loss prefers the scattered ones",
        "Winogrande 0.595 for one block of 16 of 32 layers, 0.5 (chance) for scattered ones",
        arms,
        [Comparison("scattered", "block", "before"), Comparison("block", "scattered")],
        dropped_layers=dropped_layers,
        task={
            "what": "which of four passages continues this one; chance 0.25",
            "num_questions": NUM_QUESTIONS,
            "teacher": accuracy(bench.model, bench.held_out, num_questions=NUM_QUESTIONS),
            "accuracy": tasks,
            "block_minus_scattered": on_task,
        },
    )
    print({when: {name: round(mean(v), 3) for name, v in found.items()} for when, found in tasks.items()})


if __name__ == "__main__":
    main()
