"""D1: of nine (batch, sequence) aggregations, (L2, mean) loses least before training (2407.14679, T. 13)."""

from __future__ import annotations

from itertools import product

from lab import SEEDS, conclude, opened, run_arm
from statistics_of_arms import Comparison

AGGREGATIONS = ("l2", "mean", "var")


def main() -> None:
    bench = opened(__doc__)
    pairs = list(product(AGGREGATIONS, AGGREGATIONS))
    arms = {}
    for batch, sequence in pairs:
        arms[f"{batch}, {sequence}"] = [
            run_arm(
                bench,
                f"wide-{batch}-{sequence}",
                seed,
                lambda b, s, batch=batch, sequence=sequence: b.pruned(
                    b.teacher.wide, s, batch=batch, sequence=sequence
                ),
                learn="nothing",
            )
            for seed in SEEDS
        ]
    others = [f"{batch}, {sequence}" for batch, sequence in pairs if (batch, sequence) != ("l2", "mean")]
    conclude(
        bench,
        "d1",
        "(L2, mean) beats (L2, L2) and every pair with var, before training",
        "(L2, mean) 7.18, (mean, mean) 7.21, (L2, L2) 8.73, with var 7.94 to 10.55 nats",
        arms,
        [Comparison("l2, mean", other, "before") for other in others],
    )


if __name__ == "__main__":
    main()
