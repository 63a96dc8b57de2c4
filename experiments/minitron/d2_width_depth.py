"""D2: at equal size, width pruning beats depth pruning after training (2407.14679, Tables 1 and 10)."""

from __future__ import annotations

from arms import DEPTH, WIDTH, run
from lab import conclude, opened
from statistics_of_arms import Comparison


def main() -> None:
    bench = opened(__doc__)
    conclude(
        bench,
        "d2",
        "width beats depth at equal size after training",
        "LM loss 2.049 (width) against 2.155 (depth by perplexity) and 2.177 (by block influence)",
        {"width": run(bench, WIDTH), "depth": run(bench, DEPTH)},
        [Comparison("width", "depth"), Comparison("width", "depth", "before")],
    )


if __name__ == "__main__":
    main()
