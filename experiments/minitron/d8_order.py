"""D8: the order of candidates changes in the course of the short run (2407.14679, Figures 6 and 9)."""

from __future__ import annotations

from itertools import pairwise

from arms import Arm, run
from lab import SEEDS, conclude, mean, opened
from scipy.stats import kendalltau
from statistics_of_arms import Comparison

# Shapes of nearly equal size, from all depth to all width.
SHAPES = {
    "sapling": (
        {"layer": 8, "hidden": 192, "ffn": 312},
        {"layer": 8, "hidden": 160, "ffn": 448},
        {"layer": 7, "hidden": 192, "ffn": 392},
        {"layer": 6, "hidden": 208, "ffn": 440},
        {"layer": 5, "hidden": 240, "ffn": 416},
        {"layer": 4, "hidden": 256, "ffn": 512},
    ),
    "novels": (
        {"layer": 12, "hidden": 96, "ffn": 208},
        {"layer": 12, "hidden": 80, "ffn": 296},
        {"layer": 10, "hidden": 96, "ffn": 280},
        {"layer": 9, "hidden": 104, "ffn": 280},
        {"layer": 7, "hidden": 120, "ffn": 328},
        {"layer": 6, "hidden": 128, "ffn": 352},
    ),
}


def main() -> None:
    bench = opened(__doc__)
    shapes = SHAPES[bench.teacher.name]
    arms = {}
    for sizes in shapes:
        name = "-".join(str(size) for size in sizes.values())
        arm = Arm(f"shape-{name}-kl", lambda b, s, sizes=sizes: b.pruned(sizes, s))
        arms[name] = run(bench, arm, tokens=bench.teacher.train_tokens // 2)
    seeds = []
    for number in range(len(SEEDS)):
        curves = {name: results[number]["curve"] for name, results in arms.items()}
        tokens = [point[0] for point in next(iter(curves.values()))]
        orders = [sorted(curves, key=lambda n, i=i: curves[n][i][1]) for i in range(len(tokens))]
        losses = [[curves[name][i][1] for name in curves] for i in range(len(tokens))]
        settled = max((i + 1 for i, (a, b) in enumerate(pairwise(orders)) if a != b), default=0)
        seeds.append(
            {
                "tokens": tokens,
                "orders": orders,
                "kendall_tau_with_the_last": [
                    round(float(kendalltau(each, losses[-1]).statistic), 3) for each in losses
                ],
                "settled_after_tokens": tokens[settled],
            }
        )
    best_before = min(arms, key=lambda n: mean([mean(r["before"]) for r in arms[n]]))
    best_after = min(arms, key=lambda n: mean([mean(r["after"]) for r in arms[n]]))
    others = [name for name in arms if name != best_after]
    conclude(
        bench,
        "d8",
        "the order of equal-size candidates changes during the short run",
        "rankings move until about step 300 of 400; depth+width leads, and is overtaken before step 200",
        arms,
        [Comparison(best_after, other) for other in others],
        ranking={"best_before": best_before, "best_after": best_after, "seeds": seeds},
    )


if __name__ == "__main__":
    main()
