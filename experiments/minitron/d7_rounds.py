"""D7: scoring once is as good as scoring in rounds, after training (2407.14679, Table 14)."""

from __future__ import annotations

from arms import WIDTH, Arm, run
from lab import CALIBRATION_ROWS, Bench, conclude, opened
from statistics_of_arms import Comparison
from transformers import PreTrainedModel

from niwaki.pruning.rounds import select_in_rounds
from niwaki.pruning.score import score

MARGIN_NATS = 0.05


def in_rounds(bench: Bench, seed: int, num_rounds: int) -> PreTrainedModel:
    """The wide student, scored anew after each of `num_rounds` partial cuts."""
    rows = bench.calibration(seed)
    keep = select_in_rounds(
        bench.model,
        lambda model: score(model, rows, num_samples=CALIBRATION_ROWS, batch_rows=4).importances(),
        bench.teacher.wide,
        num_rounds=num_rounds,
    )
    return bench.cut(keep)


def main() -> None:
    bench = opened(__doc__)
    arms = {"T = 1": run(bench, WIDTH)}
    for rounds in (4,):
        arm = Arm(f"wide-rounds-{rounds}-kl", lambda b, s, rounds=rounds: in_rounds(b, s, rounds))
        arms[f"T = {rounds}"] = run(bench, arm)
    conclude(
        bench,
        "d7",
        "after training, scoring once is as good as in 4 rounds",
        "embedding 6144 -> 4096: T = 1, 2, 4 give 5.43, 5.55, 5.24 before training, and 1.92 each after it",
        arms,
        [
            Comparison("T = 1", "T = 4", equal_within=MARGIN_NATS),
        ],
    )


if __name__ == "__main__":
    main()
