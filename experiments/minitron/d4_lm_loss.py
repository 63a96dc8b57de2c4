"""D4: KL alone beats KL with the LM loss (2407.14679, Table 15)."""

from __future__ import annotations

from arms import WIDTH, Arm, run, wide
from lab import conclude, opened
from statistics_of_arms import Comparison


def main() -> None:
    bench = opened(__doc__)
    conclude(
        bench,
        "d4",
        "KL alone beats KL with the LM loss",
        "LM loss 2.107 for KL alone, 2.117 with the LM loss beside it",
        {"KL": run(bench, WIDTH), "KL + LM": run(bench, Arm("wide-kl-lm", wide, {"lm_weight": 1.0}))},
        [Comparison("KL", "KL + LM")],
    )


if __name__ == "__main__":
    main()
