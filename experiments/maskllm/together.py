"""Compress, then sparsify: what each costs in loss, on students that `experiments/minitron` made of sapling.

python experiments/maskllm/together.py --students "runs/minitron/sapling/without-1-2-3-4-kl/{seed}/model"
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from bench import MODELS, PATTERN, RESULTS, SEEDS, Bench

from niwaki.ground.model import count_parameters, load_model
from niwaki.ground.run import write_atomically
from niwaki.masks.apply import apply_in_memory
from niwaki.masks.oneshot import one_shot

WAYS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "sparsegpt, weights updated": {"method": "sparsegpt", "update": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--students", required=True, help="model folder, with {seed} in it")
    students = parser.parse_args().students
    bench = Bench(MODELS["sapling"])
    path = RESULTS / "together.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for seed in SEEDS:
        if str(seed) in found:
            continue
        folder = Path(students.format(seed=seed))
        student = load_model(folder, dtype=torch.float32)
        losses = {"dense": bench.measure(student)}
        num_parameters = count_parameters(student)
        for way, settings in WAYS.items():
            model = load_model(folder, dtype=torch.float32)
            pruned = one_shot(
                model, bench.calibration(seed), pattern=PATTERN, num_samples=64, batch_rows=8, **settings
            )
            apply_in_memory(model, {each.name: each.numbers for each in pruned}, PATTERN)
            losses[way] = bench.measure(model)
        found[str(seed)] = {"num_parameters": num_parameters, "losses": losses}
        write_atomically(path, json.dumps(found, indent=1) + "\n")
        print(seed, found[str(seed)], flush=True)


if __name__ == "__main__":
    main()
