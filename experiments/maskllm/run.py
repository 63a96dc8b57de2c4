"""Run arms of one model for all seeds, in an order that gives the main table first.

python experiments/maskllm/run.py --model sapling --only main
python experiments/maskllm/run.py --model stories260K
"""

from __future__ import annotations

import argparse

from arms import (
    BEYOND,
    DISTILLED,
    KAPPA,
    LEARNED,
    LONG,
    LONG_DISTILLED,
    OBJECTIVE,
    ONE_SHOT,
    PRIORS,
    REGULARISER,
    SAMPLES,
    SHORT_OVER_UPDATED,
    UNSEEN_TEXT,
    Arms,
    dense_layers,
    domains,
)
from bench import MODELS, SEEDS, Bench, run_arm


def groups(bench: Bench) -> dict[str, Arms]:
    """Direction -> its arms."""
    num_layers = bench.model().config.num_hidden_layers
    found = {
        "main": LEARNED | ONE_SHOT,
        "one-shot": ONE_SHOT,
        "distilled": DISTILLED,
        "objective": OBJECTIVE | BEYOND,
        "long": LONG,
        "long-distilled": LONG_DISTILLED,
        "unseen": UNSEEN_TEXT,
        "updated": SHORT_OVER_UPDATED,
        "priors": PRIORS,
        "kappa": KAPPA,
        "regulariser": REGULARISER,
        "dense": dense_layers(num_layers),
        "samples": SAMPLES,
    }
    if bench.dense.domains:
        found["domains"] = domains(list(bench.dense.domains))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--only", help="groups of arms, with commas between")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="with commas between")
    arguments = parser.parse_args()
    bench = Bench(MODELS[arguments.model])
    found = groups(bench)
    for name in arguments.only.split(",") if arguments.only else found:
        for seed in map(int, arguments.seeds.split(",")):
            for arm, settings in found[name].items():
                run_arm(bench, arm, seed, settings)


if __name__ == "__main__":
    main()
