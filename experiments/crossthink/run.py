"""Every arm with every seed, resumable: `python experiments/crossthink/run.py --work runs/crossthink`.

One line of `results.jsonl` for each arm and seed, and one for each of the two models that they start from.
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


def training(work: Path) -> list[dict]:
    """What each arm and seed has learned from, counted over its steps."""
    rows = []
    for file in sorted(work.glob("*/metrics.jsonl")):
        steps = [json.loads(line) for line in file.read_text().splitlines()]
        if "groups" not in steps[0]:
            continue  # a warm-up
        arm, _, seed = file.parent.name.rpartition("-")
        rollouts, groups = (sum(step[name] for step in steps) for name in ("rollouts", "groups"))
        rows.append(
            {
                "arm": arm,
                "seed": int(seed),
                "rollouts": rollouts,
                "right": sum(step["right"] for step in steps) / rollouts,
                "all_wrong": sum(step["groups_all_wrong"] for step in steps) / groups,
                "all_right": sum(step["groups_all_right"] for step in steps) / groups,
                "kl": sum(step["kl"] for step in steps[-10:]) / len(steps[-10:]),
            }
        )
    return rows


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

    models = {}
    for name, with_text in (("start", False), ("start-text", True)):
        if with_text and not any(ARMS[arm].label_and_text for arm in arguments.arms):
            continue
        models[with_text] = start(arguments.work, setting, label_and_text=with_text)
        if (name, 0) not in done:
            write(name, 0, compact(ask(models[with_text], arguments.work / name / "answers.jsonl")))
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            if (arm, seed) not in done:
                model = models[ARMS[arm].label_and_text]
                write(arm, seed, run_arm(arm, seed, model, arguments.work, setting))
                shutil.rmtree(arguments.work / f"{arm}-{seed}" / "checkpoints", ignore_errors=True)
    (HERE / "training.json").write_text(json.dumps(training(arguments.work), indent=1) + "\n")


if __name__ == "__main__":
    main()
