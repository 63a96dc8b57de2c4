"""Every arm with every seed, resumable: `python experiments/crossthink/run.py --work runs/crossthink`.

One line of `results.jsonl` for each arm and seed, and one for the model that all start from.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from lab import ARMS, Setting, ask, compact, run_arm, start

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting()
    done = set()
    if arguments.results.exists():
        rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
        done = {(row["arm"], row["seed"]) for row in rows}

    def write(arm: str, seed: int, questions: dict) -> None:
        row = {"arm": arm, "seed": seed, "setting": asdict(setting), "questions": questions}
        with arguments.results.open("a") as file:
            file.write(json.dumps(row) + "\n")

    model = start(arguments.work, setting)
    if ("start", 0) not in done:
        write("start", 0, compact(ask(model, arguments.work / "start" / "answers.jsonl")))
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            if (arm, seed) not in done:
                write(arm, seed, run_arm(arm, seed, model, arguments.work, setting))
                shutil.rmtree(arguments.work / f"{arm}-{seed}" / "checkpoints", ignore_errors=True)


if __name__ == "__main__":
    main()
