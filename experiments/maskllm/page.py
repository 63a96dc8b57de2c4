"""Write `docs/results/maskllm.md` and its pictures from the finished arms, and keep them as small JSON.

python experiments/maskllm/page.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from arms import (
    DISTILLED,
    KAPPA,
    LONG,
    LONG_DISTILLED,
    ONE_SHOT,
    PRIORS,
    REGULARISER,
    SHORT_OVER_UPDATED,
    UNSEEN_TEXT,
    Arms,
    dense_layers,
)
from bench import MODELS, RESULTS, RUNS, SEEDS, STUDENT
from statistics_of_arms import (
    DENSE,
    UPDATED,
    Found,
    by_seed,
    claim,
    claims,
    differences,
    interval,
    sweep,
    table,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "maskllm.md"
IMAGES = ROOT / "docs" / "images" / "maskllm"

(LONGEST,) = LONG_DISTILLED


def collect(name: str) -> dict[str, list[dict[str, Any]]]:
    """Arm -> results of its finished seeds; what is in `runs/` adds to what was kept before."""
    path = RESULTS / f"{name}.json"
    found: dict[str, dict[int, dict[str, Any]]] = {}
    if path.exists():
        for arm, results in json.loads(path.read_text()).items():
            found[arm] = {result["seed"]: result for result in results}
    for record in sorted((RUNS / name).glob("*/*/result.json")):
        result = json.loads(record.read_text())
        found.setdefault(result["arm"], {})[result["seed"]] = result
    ordered = {arm: [found[arm][seed] for seed in sorted(found[arm])] for arm in sorted(found)}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    return ordered


def samples(found: Found, name: str) -> list[str]:
    """D4 as a picture: loss by calibration or training tokens."""
    dense = MODELS[name]
    learned = [(f"learned, {steps} steps", steps * dense.batch_rows) for steps in (10, 20, 40)]
    learned += [
        ("learned", dense.num_steps * dense.batch_rows),
        ("learned, 160 steps", 160 * dense.batch_rows),
    ]
    one_shot = [(f"{UPDATED}, 16 rows", 16), (UPDATED, dense.calibration_rows), (f"{UPDATED}, 256 rows", 256)]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for label, arms in (("learned", learned), ("SparseGPT, weights updated", one_shot)):
        points = [(rows, list(by_seed(found, arm).values())) for arm, rows in arms if found.get(arm)]
        if points:
            axes.errorbar(
                [rows for rows, _ in points],
                [mean(losses) for _, losses in points],
                yerr=[stdev(losses) if len(losses) > 1 else 0 for _, losses in points],
                marker="o",
                label=label,
            )
    axes.axhline(mean(by_seed(found, DENSE).values()), linestyle=":", color="black", label="dense")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel(f"rows of {dense.sequence_length_tokens} tokens seen")
    axes.set_ylabel("nats per held-out token")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / "samples.png", dpi=130)
    plt.close(figure)
    return ["![Loss by samples](../images/maskllm/samples.png)", ""]


def domains(found: Found, names: Sequence[str]) -> list[str]:
    """D5: the loss on each text with the general mask and with its own, and what follows."""

    def loss(arm: str, name: str) -> dict[int, float]:
        return {r["seed"]: r["domains"][name] for r in found.get(arm, []) if name in r["domains"]}

    lines = [
        "| text | dense | general mask | own mask from nothing | own mask from the general one |",
        "|---|---|---|---|---|",
    ]
    verdicts = ["| claim | difference in nats (95 % over seeds) | verdict |", "|---|---|---|"]
    for name in names:
        arms = ["dense, all domains", "general", f"{name}, from nothing", f"{name}, from the general mask"]
        columns = [loss(arm, name) for arm in arms]
        if not all(columns):
            continue
        lines.append(f"| {name} | " + " | ".join(f"{mean(c.values()):.4f}" for c in columns) + " |")
        _, general, from_nothing, from_general = columns
        for what, other in (("own < general", general), ("from general < from nothing", from_nothing)):
            if len(differences(from_general, other)) >= len(SEEDS):
                verdicts.append(claim(f"{name}: {what}", from_general, other))
    return [*lines, "", *verdicts, ""]


def together(sapling: Found, student: Found) -> list[str]:
    """What compressing and sparsifying cost, one after the other."""
    text = [
        "## Compress, then sparsify",
        "",
        "Students of sapling with half its layers, 3,410,176 parameters of 5,771,520, cut and distilled by "
        "`experiments/minitron` on 48,000 tokens, then 2:4; the learned mask is distilled from the dense "
        "student:",
        "",
        "```bash",
        'python experiments/maskllm/together.py --students "runs/minitron/sapling/STUDENT/{seed}/model"',
        "```",
        "",
        "| 2:4 by | sapling | student | 2:4 costs sapling | 2:4 costs the student | seeds |",
        "|---|---|---|---|---|---|",
    ]
    dense = mean(by_seed(sapling, DENSE).values())
    own_dense = by_seed(student, DENSE)
    for arm in ("magnitude", "wanda", UPDATED, LONGEST):
        losses = by_seed(student, arm)
        if not losses:
            continue
        above, cost = mean(by_seed(sapling, arm).values()), interval_of_costs(losses, own_dense)
        text.append(
            f"| {arm} | {above:.4f} | {mean(losses.values()):.4f} | {above - dense:+.4f} | {cost} "
            f"| {len(losses)} |"
        )
    text += ["", f"The dense student is at {mean(own_dense.values()):.4f}, sapling at {dense:.4f}."]
    return [*text, "", *claims(student, [(LONGEST, UPDATED), (UPDATED, "wanda")])]


def interval_of_costs(losses: Mapping[int, float], dense: Mapping[int, float]) -> str:
    rises = [loss - dense[seed] for seed, loss in losses.items()]
    if len(rises) < len(SEEDS):
        return f"{mean(rises):+.4f}"
    centre, low, high = interval(rises)
    return f"{centre:+.4f} ({low:+.4f} to {high:+.4f})"


@dataclass(frozen=True)
class Sweep:
    """A direction that changes one thing of the learned mask on stories260K.

    `shown` is what a figure beside the loss is called, and its key; `claims` are a key and pairs of arms, the
    lower one first.
    """

    title: str
    paper: str
    arms: Arms
    shown: tuple[str, str]
    claims: Sequence[tuple[str, Sequence[tuple[str, str]]]]

    def lines(self, found: Found) -> list[str]:
        text = [f"## {self.title}", "", self.paper, "", *sweep(found, list(self.arms), *self.shown)]
        for key, pairs in self.claims:
            text += claims(found, pairs, key)
        return text


CHANGED = ("share of entries changed", "changed_entries")
PRIOR = Sweep(
    "D2. The prior",
    "The paper: 15.39 to 16.39 from any prior, 18.62 from none (GPT-3 843M).",
    PRIORS,
    CHANGED,
    [
        (
            "loss",
            [
                ("learned", "learned, no prior"),
                ("learned, prior wanda", "learned"),
                ("learned, prior sparsegpt", "learned"),
            ],
        )
    ],
)
LAMBDA = Sweep(
    "D3. The regulariser",
    "The paper: gradient norm 0.219, 0.542, 0.559 for lambda 0, 1e-5, 1e-4 (GPT-3 2B).",
    REGULARISER,
    ("gradient norm, first quarter", "grad_norm"),
    [
        ("grad_norm", [("learned, lambda 0", "learned")]),
        ("changed_entries", [("learned, lambda 0", "learned, lambda 1e-4")]),
    ],
)
SCALE = Sweep(
    "D6. kappa",
    "The paper: 5.97e6, 15.39, 15.59, 24.81 for 1 to 5, 1e2 to 5e2, 1e3 to 5e3, 1e5 to 5e5.",
    KAPPA,
    CHANGED,
    [("loss", [("learned", "learned, kappa 1 to 5"), ("learned", "learned, kappa 1e5 to 5e5")])],
)
LEFT_DENSE = Sweep(
    "D7. Layers left dense",
    "The paper, GPT-3 2B on OpenWeb: 13.84 all sparse, 13.61 last layer dense, 13.88 first, 12.92 last "
    "eight.",
    dense_layers(5),
    CHANGED,
    [
        (
            "loss",
            [
                ("learned, last layer dense", "learned"),
                ("learned, last layer dense", "learned, first layer dense"),
                ("learned, last two layers dense", "learned, last layer dense"),
            ],
        )
    ],
)


def learned_against_one_shot(found: Mapping[str, Found]) -> list[str]:
    """D1."""
    text = [
        "## D1. Learned against one shot",
        "",
        "The paper, LLaMA-2 7B: perplexity 6.72 learned, 10.42 SparseGPT with updated weights, 11.29 Wanda, "
        "54.71 magnitude, 5.12 dense; in nats, 62 % of the gap between SparseGPT with update and dense is "
        "closed.",
        "",
    ]
    longer = ["learned", "learned, distilled", "learned, 160 steps", "learned over updated weights"]
    arms = {
        "stories260K": longer,
        "sapling": ["learned", *DISTILLED, *LONG, *list(UNSEEN_TEXT)[:1], *SHORT_OVER_UPDATED],
        "novels": list(LONG),
    }
    for name, learned in arms.items():
        text += [f"**{name}**", "", *table(found[name], [*ONE_SHOT, *learned])]
    pairs = {
        "stories260K": [
            ("learned", UPDATED),
            (UPDATED, "wanda"),
            ("wanda", "magnitude"),
            (UPDATED, "sparsegpt, mask only"),
            ("learned", "learned, distilled"),
        ]
    }
    for name in ("sapling", "novels"):
        pairs[name] = [(LONGEST, UPDATED), (UPDATED, "wanda"), ("wanda", "magnitude")]
        if by_seed(found[name], "learned, 480 steps"):
            pairs[name].append((LONGEST, "learned, 480 steps"))
    for name in pairs:
        text += [f"{name}:", "", *claims(found[name], pairs[name])]
    return text


def by_samples(found: Found) -> list[str]:
    """D4."""
    return [
        "## D4. Samples",
        "",
        "The paper: SparseGPT gains nothing beyond 256 rows, learning still does at 512,000.",
        "",
        *samples(found, "stories260K"),
        *claims(
            found,
            [
                ("learned, 160 steps", "learned"),
                ("learned", "learned, 40 steps"),
                (f"{UPDATED}, 256 rows", UPDATED),
            ],
        ),
    ]


def by_domain(found: Found) -> list[str]:
    """D5."""
    return [
        "## D5. One mask per domain",
        "",
        "The paper, GPT-3 2B, average over domains: general mask 10.61, own mask from scratch 7.51, own from "
        "the general one 7.39.",
        "",
        *domains(found, list(MODELS["stories260K"].domains)),
        "The dense model was trained on simple stories alone, so on these texts it is worse than its own "
        "masks: to choose among weights is to train.",
        "",
    ]


def main() -> None:
    found = {name: collect(name) for name in (*MODELS, STUDENT)}
    stories = found["stories260K"]
    text = [
        (Path(__file__).parent / "intro.md").read_text(),
        *learned_against_one_shot(found),
        *PRIOR.lines(stories),
        *LAMBDA.lines(stories),
        *by_samples(stories),
        *by_domain(stories),
        *SCALE.lines(stories),
        *LEFT_DENSE.lines(stories),
        *together(found["sapling"], found[STUDENT]),
    ]
    PAGE.write_text("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main()
