"""D5: forward KL beats reverse KL, and MSE and cosine on logits (2407.14679, Tables 15 and 16)."""

from __future__ import annotations

from arms import WIDTH, Arm, run, wide
from lab import conclude, opened
from statistics_of_arms import Comparison

OTHERS = {"reverse KL": "reverse_kl", "logits MSE": "mse", "logits cosine": "cosine"}


def main() -> None:
    bench = opened(__doc__)
    arms = {"forward KL": run(bench, WIDTH)}
    others = OTHERS if bench.teacher.name == "novels" else {"reverse KL": "reverse_kl"}
    for name, loss in others.items():
        arms[name] = run(bench, Arm(f"wide-{loss}", wide, {"loss": loss}))
    conclude(
        bench,
        "d5",
        "forward KL beats reverse KL, and MSE and cosine on logits",
        "with the LM loss beside each: KL 2.117, cosine 2.134, reverse KL 2.140, MSE 2.144; 16 layers: 2.155 "
        "against 2.665 for reverse KL",
        arms,
        [Comparison("forward KL", name) for name in others],
    )


if __name__ == "__main__":
    main()
