"""D6: half the layers gone, Lo + Lemb (last-2) helps, and a wrong layer map hurts (2407.14679, Table 17)."""

from __future__ import annotations

from arms import DEPTH, Arm, deep, run
from lab import conclude, opened
from statistics_of_arms import Comparison

from niwaki.distillation.hidden import HiddenLoss

LAST, LAST_BUT_TWO = -1, -3


def main() -> None:
    bench = opened(__doc__)
    middle = bench.teacher.deep["layer"] - 1  # as 15:15 of 32 layers
    maps = {
        "+ Lo(last-2 : last-2) + Lemb": {LAST_BUT_TWO: LAST_BUT_TWO},
        "+ Lo(middle : last) + Lemb": {middle: LAST},
    }
    arms = {"logits": run(bench, DEPTH)}
    for name, layers in maps.items():
        place = "-".join(f"{t}to{s}" for t, s in layers.items())
        arms[name] = run(bench, Arm(f"deep-kl-hidden-{place}", deep, {"hidden": HiddenLoss(layers=layers)}))
    right, wrong = maps
    conclude(
        bench,
        "d6",
        "with half the layers gone Lo(last-2 : last-2) + Lemb helps; maps to the student's last layer hurt",
        "logits 2.155, with Lo(29:13) + Lemb 2.141, with Lo(31:15) + Lemb 2.180, with Lo(15:15) + Lemb 2.240",
        arms,
        [
            Comparison(right, "logits"),
            Comparison("logits", wrong),
            Comparison(right, wrong),
        ],
    )


if __name__ == "__main__":
    main()
