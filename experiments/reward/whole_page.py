"""The part of the results page about whole models: `results/whole/*.json` -> text and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import t as student

RESULTS = Path(__file__).parent / "results" / "whole"
INK, MOSS, CLAY, STONE = "#2b2f2a", "#2f6f4f", "#c2703d", "#888888"
NAMES = {
    "regression": ("regression, helpfulness", 93.0),
    "regular": ("regular BT", 91.5),
    "margin": ("margin BT", 91.5),
    "scaled": ("scaled BT", 92.7),
    "regression-regular": ("regression -> regular BT", 92.7),
    "regression-margin": ("regression -> margin BT", 93.0),
    "regression-scaled": ("regression -> scaled BT", 93.7),
    "regression-scaled-expo": ("regression -> scaled BT + ExPO", 94.1),
}
DIRECTIONS = (
    ("D1", "scaled BT above regular", "scaled", "regular"),
    ("D1", "scaled BT above margin", "scaled", "margin"),
    ("D2", "a regression first helps scaled BT", "regression-scaled", "scaled"),
    ("D2", "a regression first helps regular BT", "regression-regular", "regular"),
    ("D2", "a regression first helps margin BT", "regression-margin", "margin"),
    ("D3", "scaled BT improves on its regression", "regression-scaled", "regression"),
    ("D3", "scaled above regular, both after regression", "regression-scaled", "regression-regular"),
    ("D3", "scaled above margin, both after regression", "regression-scaled", "regression-margin"),
    ("D4", "ExPO improves on scaled BT", "regression-scaled-expo", "regression-scaled"),
)


class Whole:
    """What the runs left: for each variant one row of flags a seed, [seeds, pairs]."""

    def __init__(self) -> None:
        self.test = json.loads((RESULTS / "test.json").read_text())
        self.tuning = json.loads((RESULTS / "tuning.json").read_text())
        self.runs: dict[str, list[dict[str, Any]]] = {}
        for name in NAMES:
            found = sorted(RESULTS.glob(f"{name}-[0-9]*.json"))
            runs = [json.loads(path.read_text()) for path in found]
            self.runs |= {name: runs} if len(runs) > 1 else {}
        self.groups = np.unique(self.test["groups"], return_inverse=True)[1]

    def right(self, name: str) -> np.ndarray:
        """[seeds, pairs] of 0 and 1."""
        return np.array([[int(flag) for flag in run["right"]] for run in self.runs[name]])

    def difference(self, better: str, worse: str) -> np.ndarray:
        """[seeds, pairs] of -1, 0 and 1, of the seeds that both have."""
        of = [
            {run["seed"]: row for run, row in zip(self.runs[n], self.right(n), strict=True)}
            for n in (better, worse)
        ]
        return np.array([of[0][seed] - of[1][seed] for seed in sorted(of[0].keys() & of[1].keys())])

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Mean of [seeds, pairs] and half of its 95 % interval, over seeds and over test prompts."""
        of_seeds = values.mean(axis=1)
        n = len(of_seeds)
        over_seeds = student.ppf(0.975, n - 1) * of_seeds.std(ddof=1) / n**0.5
        sums = np.bincount(self.groups, values.mean(axis=0))
        counts = np.bincount(self.groups)
        draws = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
        over_prompts = 1.96 * (sums[draws].sum(1) / counts[draws].sum(1)).std()
        return float(of_seeds.mean()), float(np.hypot(over_seeds, over_prompts))


def verdict(mean: float, half: float) -> str:
    return "agreed" if mean - half > 0 else "not agreed" if mean + half < 0 else "cannot tell"


def points(mean: float, half: float) -> str:
    return f"{100 * mean:+.1f} ({100 * (mean - half):+.1f} to {100 * (mean + half):+.1f})"


def text(found: Whole) -> Iterator[str]:
    test = found.test
    longer = np.array([[int(flag) for flag in test["longer"]]])
    num_seeds = len(found.runs["scaled"])
    yield "## HelpSteer2-Preference: which training comes out ahead, whole models\n"
    yield (
        f"Every weight of `sapling` is trained, and the score is read at the last token: what `niwaki run` "
        f"does. {num_seeds} seeds, each with data and raters of its own; {test['num_pairs']} pairs to learn "
        f"from, seen once ({test['steps']['preference']} steps of 8 pairs), their answers with ratings "
        f"twice in the regression ({test['steps']['regression']} steps of 16 answers); {test['num_test']} "
        "test pairs on functions that nothing was trained on, judged by the true worth. Intervals are "
        "over seeds and over test prompts, and differences are paired in both.\n"
    )
    yield "| variant | true accuracy, % | paper, RewardBench |\n|---|---|---|"
    for name, (label, paper) in NAMES.items():
        if name in found.runs:
            mean, half = found.interval(found.right(name))
            yield f"| {label} | {100 * mean:.1f} ± {100 * half:.1f} | {paper} |"
    yield f"| longer answer | {100 * longer.mean():.1f} | |\n| coin | 50.0 | |"
    yield ("\n| direction | the paper says | difference in points (95 %, paired) | here |\n|---|---|---|---|")
    for label, claim, better, worse in DIRECTIONS:
        if better in found.runs and worse in found.runs:
            mean, half = found.interval(found.difference(better, worse))
            yield f"| {label} | {claim} | {points(mean, half)} | **{verdict(mean, half)}** |"
    if "regression-scaled-expo" in found.runs:
        runs = found.runs["regression-scaled-expo"]
        yield _expo_at_the_papers_step(found, runs)
        yield _overshoot(runs)
    third = np.array([int(t) for t in test["third_by_worth"]])
    rise = found.right("scaled")[:, third == 2].mean(1) - found.right("scaled")[:, third == 0].mean(1)
    half = float(student.ppf(0.975, len(rise) - 1) * rise.std(ddof=1) / len(rise) ** 0.5)
    yield (
        f"| D6 | accuracy rises with the strength of the pair | {points(float(rise.mean()), half)} | "
        f"**{verdict(float(rise.mean()), half)}** |"
    )
    yield "\n![Accuracy of the variants, and the extrapolation](../images/reward/whole.png)\n"
    yield _rates(found)
    yield (
        "The means stand in the paper's order at the top (regression, then scaled BT, then ExPO), and "
        "every variant is far above the longer answer; between variants five seeds of this size decide "
        "little. Regular and margin BT after a regression were not run for this page; the script does "
        "them last.\n\nD2 says also that keeping the head helps most; every variant here keeps it. D5 "
        "(one rating above five) was tried on frozen states alone, below; D7 (answers lengthen under "
        "reinforcement learning) was not tried.\n"
    )
    yield ("```bash\npython experiments/reward/whole.py tune && python experiments/reward/whole.py\n```\n")


def _expo_at_the_papers_step(found: Whole, runs: list[dict[str, Any]]) -> str:
    before = {run["seed"]: run["accuracy"] for run in found.runs["regression-scaled"]}
    moved = np.array([run["paper_a_accuracy"] - before[run["seed"]] for run in runs])
    half = float(student.ppf(0.975, len(moved) - 1) * moved.std(ddof=1) / len(moved) ** 0.5)
    mean = float(moved.mean())
    return (
        f"| D4 | the paper's step, 1.52, improves on it | {points(mean, half)} | **{verdict(mean, half)}** |"
    )


def _overshoot(runs: list[dict[str, Any]]) -> str:
    """The paper's step against the largest, on the validation pairs that the curve is of."""
    curves = np.array([[p["accuracy"] for p in run["expo"]["curve"]] for run in runs])
    grid = [p["a"] for p in runs[0]["expo"]["curve"]]
    fall = curves[:, grid.index(1.52)] - curves[:, -1]
    half = float(student.ppf(0.975, len(fall) - 1) * fall.std(ddof=1) / len(fall) ** 0.5)
    mean = float(fall.mean())
    claim = f"large steps overshoot: 1.52 above {grid[-1]:g}, validation pairs"
    return f"| D4 | {claim} | {points(mean, half)} | **{verdict(mean, half)}** |"


def _rates(found: Whole) -> str:
    told = []
    for loss, tried in found.tuning.items():
        values = ", ".join(f"{rate}: {100 * one['accuracy']:.0f}" for rate, one in tried.items())
        told.append(f"{loss} ({values})")
    chosen = ", ".join(f"{loss} {rate:g}" for loss, rate in found.test["rates"].items())
    steps = ""
    if "regression-scaled-expo" in found.runs:
        picked = ", ".join(f"{run['expo']['a']:g}" for run in found.runs["regression-scaled-expo"])
        steps = f" Steps of the extrapolation that validation chose: {picked} (the paper took 1.52)."
    return (
        "Learning rates were chosen for each loss on a seed that is not among these, by the raters' order of "
        f"100 validation pairs, in %: {'; '.join(told)}. Chosen: {chosen}. The differences between "
        f"neighbouring rates are as large as those between losses.{steps}\n"
    )


def draw(found: Whole) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), width_ratios=(1.25, 1))
    names = [name for name in reversed(NAMES) if name in found.runs]
    for place, name in enumerate(names, 1):
        mean, half = found.interval(found.right(name))
        colour = MOSS if "scaled" in name else INK
        left.errorbar(100 * mean, place, xerr=100 * half, fmt="o", color=colour, capsize=3)
        seeds = 100 * found.right(name).mean(1)
        left.plot(seeds, np.full(len(seeds), place - 0.22), "|", color=colour, alpha=0.6, markersize=5)
    longer = 100 * np.mean([int(flag) for flag in found.test["longer"]])
    left.plot(longer, 0, "o", color=STONE)
    left.axvline(50, color=STONE, linestyle=":", linewidth=1)
    left.set_yticks(range(len(names) + 1), ["longer answer", *(NAMES[n][0] for n in names)], fontsize=8)
    left.set_xlabel("test pairs in their true order, % (ticks: seeds)")
    left.grid(axis="x", alpha=0.3)
    runs = found.runs.get("regression-scaled-expo", [])
    curves = 100 * np.array([[p["accuracy"] for p in run["expo"]["curve"]] for run in runs])
    if len(curves):
        grid = [p["a"] for p in runs[0]["expo"]["curve"]]
        for curve in curves:
            right.plot(grid, curve, color=STONE, alpha=0.5, linewidth=0.8)
        right.plot(grid, curves.mean(0), color=MOSS, linewidth=2, marker="o", markersize=4, label="mean")
    right.axvline(1.52, color=CLAY, linestyle=":", label="the paper's 1.52")
    right.set_xlabel("step a (0: regression, 1: scaled BT)")
    right.set_ylabel("validation pairs in the raters' order, %")
    right.legend(frameon=False, fontsize=8)
    return figure
