"""The headline: how many tokens the student's shape needs, from random weights, to reach the student's loss.

The student is the `wide` one: pruned, then distilled on the bench's tokens. Its shape starts from random
weights and learns from the text alone, on 1, 4, 16, ... times the tokens, every length with its own schedule.
The papers: up to 40 times fewer training tokens than from scratch (2407.14679).
"""

from __future__ import annotations

import math

from arms import WIDTH, Arm, run, wide_from_nothing
from lab import SEEDS, conclude, mean, opened
from statistics_of_arms import Comparison

MULTIPLES = (1, 4, 16)
SEEDS_AT = {16: SEEDS[:1]}  # the long one once
# Random weights stand, and want, the rate that the teachers were trained at.
LEARNING_RATE = 3e-3


def main() -> None:
    bench = opened(__doc__)
    student = run(bench, WIDTH)
    target = mean([mean(r["after"]) for r in student])
    arms = {"pruned, KD": student}
    curve = []
    for multiple in MULTIPLES:
        arm = Arm(
            f"wide-from-nothing-text-x{multiple}",
            wide_from_nothing,
            {"learn": "text", "learning_rate": LEARNING_RATE},
        )
        results = run(bench, arm, SEEDS_AT.get(multiple, SEEDS), tokens=multiple * bench.teacher.train_tokens)
        arms[f"random weights, text x{multiple}"] = results
        curve.append((results[0]["num_tokens"], mean([mean(r["after"]) for r in results])))
        if curve[-1][1] <= target:
            break
    conclude(
        bench,
        "parity",
        "from random weights the same shape needs many times the tokens of the distilled student",
        "up to 40 times fewer tokens for each derived model",
        arms,
        [
            Comparison("pruned, KD", "random weights, text x1"),
            Comparison("pruned, KD", "random weights, text x4"),
        ],
        parity=parity(target, student[0]["num_tokens"], curve),
    )


def parity(target: float, student_tokens: int, curve: list[tuple[int, float]]) -> dict[str, object]:
    """Where the curve of (tokens, loss) meets `target`, straight in log tokens between two measured points.

    "reached" is None when the curve stays above; then "above" is what is known, and "extrapolated" is the
    line through the last two points, to be quoted only as such.
    """
    found: dict[str, object] = {
        "student_loss": round(target, 4),
        "student_tokens": student_tokens,
        "curve": [(tokens, round(loss, 4)) for tokens, loss in curve],
        "reached": None,
        "above": None,
        "extrapolated": None,
    }

    def crossing(first: tuple[int, float], second: tuple[int, float]) -> float:
        share = (first[1] - target) / (first[1] - second[1])
        log_tokens = math.log(first[0]) + share * (math.log(second[0]) - math.log(first[0]))
        return round(math.exp(log_tokens) / student_tokens, 2)

    if curve[-1][1] <= target and len(curve) > 1:
        return found | {"reached": crossing(curve[-2], curve[-1])}
    return found | {
        "above": round(curve[-1][0] / student_tokens, 2),
        "extrapolated": crossing(curve[-2], curve[-1]),
    }


if __name__ == "__main__":
    main()
