"""Compress, then sparsify: the arms of this bench on students that `experiments/minitron` made of sapling.

python experiments/maskllm/together.py --students "runs/minitron/sapling/without-1-2-3-4-kl/{seed}/model"
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from arms import LONG_DISTILLED, ONE_SHOT
from bench import MODELS, SEEDS, STUDENT, Bench, run_arm


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--students", required=True, help="model folder, with {seed} in it")
    students = parser.parse_args().students
    for seed in SEEDS:
        student = replace(
            MODELS["sapling"], name=STUDENT, model=students.format(seed=seed), tokenizer="sapling"
        )
        bench = Bench(student)
        for arm, settings in (ONE_SHOT | LONG_DISTILLED).items():
            run_arm(bench, arm, seed, settings)


if __name__ == "__main__":
    main()
