"""D3: pruned and distilled < pruned, trained on text < random weights, distilled (2408.11796, Figure 6)."""

from __future__ import annotations

from arms import RANDOM_UNITS, RANDOM_WEIGHTS, WIDTH, WIDTH_TEXT, run
from lab import conclude, opened
from statistics_of_arms import Comparison


def main() -> None:
    bench = opened(__doc__)
    conclude(
        bench,
        "d3",
        "pruned and distilled beats pruned and trained on text, random units, and random weights",
        "Figure 6 of 2408.11796: pruning + KD < random pruning + KD, pruning + LM loss, random weights + KD",
        {
            "pruned, KD": run(bench, WIDTH),
            "pruned, text": run(bench, WIDTH_TEXT),
            "random units, KD": run(bench, RANDOM_UNITS),
            "random weights, KD": run(bench, RANDOM_WEIGHTS),
        },
        [
            Comparison("pruned, KD", "pruned, text"),
            Comparison("pruned, text", "random weights, KD"),
            Comparison("pruned, KD", "random units, KD"),
        ],
    )


if __name__ == "__main__":
    main()
