"""Write `docs/results/reward.md` and its pictures from `results/*.json`.

    python experiments/reward/page.py

Nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import whole_page
from scipy.stats import t as student

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "results" / "reward.md"
IMAGES = ROOT / "docs" / "images" / "reward"
PAPER = {
    "regression, five attributes": 92.4,
    "regression, helpfulness": 93.0,
    "regular BT": 91.5,
    "margin BT": 91.5,
    "scaled BT": 92.7,
    "regression -> regular BT": 92.7,
    "regression -> margin BT": 93.0,
    "regression -> scaled BT": 93.7,
    "regression -> scaled BT + ExPO": 94.1,
}
DIRECTIONS = (
    ("D1", "scaled BT above regular", "scaled BT", "regular BT"),
    ("D1", "scaled BT above margin", "scaled BT", "margin BT"),
    ("D2", "a regression first helps scaled BT", "regression -> scaled BT", "scaled BT"),
    ("D2", "a regression first helps regular BT", "regression -> regular BT", "regular BT"),
    ("D3", "scaled BT improves on its regression", "regression -> scaled BT", "regression, helpfulness"),
    (
        "D3",
        "scaled above margin, both after regression",
        "regression -> scaled BT",
        "regression -> margin BT",
    ),
    ("D4", "ExPO improves on scaled BT", "regression -> scaled BT + ExPO", "regression -> scaled BT"),
    (
        "D5",
        "helpfulness alone above five attributes",
        "regression, helpfulness",
        "regression, five attributes",
    ),
)
DIFFERENCE = "difference in points (95 % over seeds, paired)"
INK, MOSS, CLAY, STONE = "#2b2f2a", "#2f6f4f", "#c2703d", "#888888"


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and half of its 95 % interval (Student's t)."""
    array = np.asarray(values, dtype=float)
    half = student.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5
    return float(array.mean()), float(half)


def verdict(mean: float, half: float) -> str:
    return "agreed" if mean - half > 0 else "not agreed" if mean + half < 0 else "cannot tell"


def points(mean: float, half: float) -> str:
    return f"{100 * mean:+.1f} ({100 * (mean - half):+.1f} to {100 * (mean + half):+.1f})"


def share(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def variants(found: dict[str, Any]) -> Iterator[str]:
    seeds, last = found["seeds"], load("variants-last")
    both = [seeds] if last is None else [seeds, last["seeds"]]
    arms = [{name: [s["accuracy"][name] for s in one] for name in one[0]["accuracy"]} for one in both]
    heads = ["mean of the answer's states", "state of the last token"][: len(both)]
    yield "## The same on frozen states\n"
    rates = [
        f"{head}: {', '.join(f'{n} {r:g}' for n, r in one['rates'].items())}"
        for head, one in zip(heads, [found] if last is None else [found, last], strict=True)
    ]
    yield (
        f"Heads alone, trained by the same losses and loop on states of the frozen model: {len(seeds)} "
        f"seeds, about {np.mean([s['num_pairs'] for s in seeds]):.0f} pairs to learn from, "
        f"{found['num_test']} test pairs judged by the true worth. The raters' own order is right for "
        f"{100 * np.mean([s['labels_true'] for s in seeds]):.0f} % of the training pairs. Learning rates "
        f"chosen on six seeds of their own ({'; '.join(rates)}).\n"
    )
    yield f"| variant | {' | '.join(f'{h}, %' for h in heads)} | paper, RewardBench |"
    yield f"|---|{'---|' * (len(heads) + 1)}"
    for name in arms[0]:
        yield f"| {name} | {' | '.join(share(a[name]) for a in arms)} | {PAPER.get(name, '')} |"
    yield (
        f"\n| direction | the paper says | {' | '.join(f'{h}: {DIFFERENCE}' for h in heads)} |\n"
        f"|---|---|{'---|' * len(heads)}"
    )
    for label, claim, better, worse in DIRECTIONS:
        told = [interval(np.subtract(a[better], a[worse])) for a in arms]
        cells = [f"{points(*one)} **{verdict(*one)}**" for one in told]
        yield f"| {label} | {claim} | {' | '.join(cells)} |"
    cells = []
    for one in both:
        bands = [[s["by_worth"]["scaled BT"][i] for s in one] for i in range(3)]
        rise = interval(np.subtract(bands[2], bands[0]))
        cells.append(f"{points(*rise)} **{verdict(*rise)}**")
    yield f"| D6 | accuracy rises with the strength of the pair | {' | '.join(cells)} |"
    yield "\n![Accuracy of the variants, and the extrapolation curve](../images/reward/variants.png)\n"
    steps = [s["expo"]["a"] for s in seeds]
    yield (
        "The picture is of the mean. A head on the frozen last token has little to read; training the "
        "whole model moves what the answer says into that token: look at the table above first.\n"
    )
    yield f"Steps that validation chose (mean): {', '.join(f'{a:g}' for a in steps)} (the paper took 1.52).\n"
    yield (
        "```bash\npython experiments/reward/lab.py\npython experiments/reward/variants.py\n"
        "python experiments/reward/variants.py last\n```\n"
    )


def draw_variants(found: dict[str, Any]) -> None:
    seeds = found["seeds"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), width_ratios=(1.25, 1))
    names = list(reversed(seeds[0]["accuracy"]))
    for place, name in enumerate(names):
        mean, half = interval([s["accuracy"][name] for s in seeds])
        colour = MOSS if "scaled" in name else STONE if name == "longer answer" else INK
        left.errorbar(100 * mean, place, xerr=100 * half, fmt="o", color=colour, capsize=3)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_xlabel("test pairs in their true order, %")
    left.grid(axis="x", alpha=0.3)
    grid = [p["a"] for p in seeds[0]["expo"]["curve"]]
    curves = np.array([s["expo"]["test_accuracy"] for s in seeds]) * 100
    for curve in curves:
        right.plot(grid, curve, color=STONE, alpha=0.35, linewidth=0.8)
    right.plot(grid, curves.mean(0), color=MOSS, linewidth=2, marker="o", markersize=4)
    right.axvline(1.52, color=CLAY, linestyle=":", label="the paper's 1.52")
    right.set_xlabel("step a (0: regression, 1: scaled BT)")
    right.set_ylabel("test pairs in their true order, %")
    right.legend(frameon=False, fontsize=8)
    save(figure, "variants")


def objectives(found: dict[str, Any]) -> Iterator[str]:
    seeds = found["seeds"]
    arms = list(seeds[0]["arms"])

    def of(arm: str, key: str = "accuracy") -> list[float]:
        return [s["arms"][arm][key] for s in seeds]

    yield "## ArmoRM: gate, debiasing, single head\n"
    yield (
        f"{len(seeds)} seeds on {found['num_test']} test pairs. The two domains of the bench want "
        f"different things: "
        "explained prompts want comments, plain ones do not.\n"
    )
    yield (
        "| weights of the objectives | true accuracy, % | better one is longer | better one is "
        "shorter | rank "
        "correlation of score and length |\n|---|---|---|---|---|"
    )
    for arm in arms:
        mean, half = interval(of(arm, "with length")) if arm != "longer answer" else (1.0, 0.0)
        cells = [share(of(arm, key)) for key in ("accuracy", "better is longer", "better is shorter")]
        yield f"| {arm} | {' | '.join(cells)} | {mean:+.2f} ± {half:.2f} |"
    r2 = {n: interval([s["r2"][n] for s in seeds])[0] for n in seeds[0]["r2"]}
    checks: list[tuple[str, str, list[float]]] = [
        (
            "D1",
            "every objective is predicted above chance (least R², × 100)",
            [min(s["r2"].values()) for s in seeds],
        ),
    ]
    gate, fixed, uniform = (f"{n}, debiased" for n in ("prompt gate", "fixed weights", "uniform weights"))
    checks += [
        ("D2", "the gate above the best fixed weights", np.subtract(of(gate), of(fixed)).tolist()),
        ("D2", "the gate above uniform weights", np.subtract(of(gate), of(uniform)).tolist()),
        (
            "",
            "the gate above helpfulness alone",
            np.subtract(of(gate), of("helpfulness alone, debiased")).tolist(),
        ),
        (
            "D3",
            "prompts that want comments load the comments objective more",
            [
                s["gates, debiased"]["explained"]["comments"] - s["gates, debiased"]["plain"]["comments"]
                for s in seeds
            ],
        ),
        (
            "D4",
            "debiasing lowers the score's correlation with length (× 100)",
            np.subtract(
                np.abs(of("prompt gate, biased", "with length")), np.abs(of(gate, "with length"))
            ).tolist(),
        ),
        (
            "D4",
            "at no cost in true accuracy (gate)",
            np.subtract(of(gate), of("prompt gate, biased")).tolist(),
        ),
        (
            "D4",
            "at no cost in true accuracy (helpfulness alone)",
            np.subtract(of("helpfulness alone, debiased"), of("helpfulness alone, biased")).tolist(),
        ),
        (
            "D6",
            "shuffling the prompts loses what the gate gained",
            np.subtract(of(gate), of("prompt gate, prompts shuffled, debiased")).tolist(),
        ),
    ]
    yield "\n| direction | claim | difference in points (95 % over seeds, paired) | here |\n|---|---|---|---|"
    for label, claim, values in checks:
        mean, half = interval(values)
        yield f"| {label} | {claim} | {points(mean, half)} | **{verdict(mean, half)}** |"
    yield (
        f"\nCross-validated R² of the heads: {', '.join(f'{n} {v:.2f}' for n, v in r2.items())}.\n"
        "\n![Correlation of each objective with length, and gates by "
        "domain](../images/reward/objectives.png)\n\nBars are standard deviations over seeds.\n"
    )
    yield "```bash\npython experiments/reward/objectives.py\n```\n"


def draw_objectives(found: dict[str, Any]) -> None:
    seeds, names = found["seeds"], found["seeds"][0]["names"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6))
    for when, colour in (("before", CLAY), ("after", MOSS)):
        for which, marker in (("reference", "o"), ("other", "D")):
            values = np.array([s["heads"][when][which] for s in seeds])
            offset = -0.15 if which == "reference" else 0.15
            label = f"{when} debiasing, {'where it was fitted' if which == 'reference' else 'test answers'}"
            left.errorbar(
                np.arange(len(names)) + offset, values.mean(0), yerr=values.std(0), fmt=marker, color=colour,
                markersize=4, label=label,
            )  # fmt: skip
    left.axhline(0, color=INK, linewidth=0.8)
    left.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    left.set_ylabel("rank correlation with length")
    left.legend(frameon=False, fontsize=7)
    width = 0.38
    for i, (domain, colour) in enumerate((("plain", STONE), ("explained", MOSS))):
        values = np.array([[s["gates, debiased"][domain][n] for n in names] for s in seeds])
        right.bar(
            np.arange(len(names)) + (i - 0.5) * width,
            values.mean(0),
            width,
            yerr=values.std(0),
            color=colour,
            label=domain,
        )
    right.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    right.set_ylabel("gate")
    right.legend(frameon=False, fontsize=8, title="prompts")
    save(figure, "objectives")


def real(found: dict[str, Any]) -> Iterator[str]:
    yield "## Real preferences and ratings\n"
    yield (
        "Frozen `sapling`, which has read only Python, on English text: a floor, not a contender. "
        "Predictions for a prompt "
        "come from a head that never saw it; intervals resample prompts. The length baseline "
        "learns its sign.\n"
    )
    yield "| pairs | number | states, % | length, % | coin, % | states minus length |"
    yield "|---|---|---|---|---|---|"
    for name, one in found["pairs"].items():
        cells = [
            f"{100 * one[k]['mean']:.1f} ({100 * one[k]['low']:.1f} to {100 * one[k]['high']:.1f})"
            for k in ("states", "length, learned sign", "coin")
        ]
        d = one["states minus length"]
        cells.append(f"{100 * d['mean']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})")
        yield f"| {name} | {one['num_pairs']} on {one['num_prompts']} prompts | {' | '.join(cells)} |"
    sure = [name for name, one in found["pairs"].items() if one["states minus length"]["low"] > 0]
    yield (
        f"\nThe states are certainly better than length on {', '.join(sure) or 'none of these sets'}: "
        "with this backbone no reward model for English preferences comes of it."
        if len(sure) < len(found["pairs"])
        else "\nThe states are certainly better than length on every set."
    )
    yield "\nOf each set the first prompts by hash, as many as the budget of the run allowed. Not used:\n"
    for name, one in found["pairs"].items():
        yield f"- {name}: {', '.join(f'{n} {why}' for why, n in one['not_used'].items())}"
    yield (
        "\n| ratings | objective | rank correlation, states | length | R², states | length |\n"
        "|---|---|---|---|---|---|"
    )
    for name, one in found["ratings"].items():
        for objective, both in one["objectives"].items():
            s, length = both["states"], both["length"]
            yield (
                f"| {name} ({one['num_answers']} answers) | {objective} | {s['spearman']:+.2f} | "
                f"{length['spearman']:+.2f} "
                f"| {s['r2']:+.2f} | {length['r2']:+.2f} |"
            )
    yield "\n```bash\npython experiments/reward/real.py DATA      # the folders pref_* and attr_*\n```\n"


def save(figure: Any, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parts = [(Path(__file__).parent / "intro.md").read_text()]
    if (RESULTS / "whole" / "test.json").exists():
        found = whole_page.Whole()
        parts.append("\n".join(whole_page.text(found)))
        save(whole_page.draw(found), "whole")
    for name, text, draw in (
        ("variants", variants, draw_variants),
        ("objectives", objectives, draw_objectives),
        ("real", real, None),
    ):
        measured = load(name)
        if measured is not None:
            parts.append("\n".join(text(measured)))
            if draw is not None:
                draw(measured)
    parts.append((Path(__file__).parent / "outro.md").read_text())
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
