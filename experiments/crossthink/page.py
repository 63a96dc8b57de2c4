"""Write `docs/results/crossthink.md` and its picture from `results.jsonl`.

    python experiments/crossthink/page.py

Nothing is measured here. A comparison whose arms are not there yet is named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from statistics_of_arms import (
    Difference,
    Measure,
    Questions,
    accuracy,
    difference,
    load,
    over_seeds,
    tokens_of_right,
    tokens_per_right,
    verdict,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "results" / "crossthink.md"
IMAGE = ROOT / "docs" / "images" / "crossthink" / "arms.png"
TITLES = {
    "start": "warmed up, no GRPO",
    "start-text": "warmed up on label + text, no GRPO",
    "nd": "nd: natural sizes",
    "gpr-up": "gpr-up: general 66, mathematics 34",
    "math-up": "math-up: mathematics 66, general 34",
    "only-math": "mathematics alone",
    "only-gpr": "general alone",
    "open": "nd, every question open",
    "hard": "nd, what the start gets wrong",
    "hard-shares": "nd, the same in nd's shares",
    "sum": "nd, accuracy + form",
    "text": "nd, choices as label + text",
    "random": "nd, a coin as reward",
}
MARGIN = 3.0
NUM_SEEDS = 3  # fewer give no verdict


@dataclass(frozen=True)
class Claim:
    """`arm` has more of `measure` than `other`; with a margin, as much; with `starts`, gains more than it."""

    label: str
    words: str
    paper: str
    arm: str
    other: str
    measure: Measure
    margin: float | None = None
    starts: tuple[str, str] | None = None


CLAIMS = [
    Claim("GRPO", "GRPO on nd raises accuracy", "44.75 to 55.66 (nd)", "nd", "start", accuracy()),
    Claim("D1a", "a blend beats mathematics alone", "58.12 against 57.82", "gpr-up", "only-math", accuracy()),
    Claim("D1b", "a blend beats general alone", "58.12 against 53.30", "gpr-up", "only-gpr", accuracy()),
    Claim(
        "D1c",
        "a blend beats mathematics alone on general questions",
        "57.82 / 63.71 against 54.26 / 61.39 (MMLU-Pro / AGIEval)",
        "gpr-up",
        "only-math",
        accuracy("gpr"),
    ),
    Claim("math-up", "gpr-up beats math-up", "58.12 against 57.72", "gpr-up", "math-up", accuracy()),
    Claim("D3", "every question open beats mixed", "56.87 against 55.66", "open", "nd", accuracy()),
    Claim(
        "D4",
        "GRPO gains more with short labels than with label and text",
        "54.50 against 53.30",
        "nd",
        "text",
        accuracy(),
        starts=("start", "start-text"),
    ),
    Claim(
        "D4 mc",
        "the same, on multiple choice alone",
        "no number",
        "nd",
        "text",
        accuracy(choices=True),
        starts=("start", "start-text"),
    ),
    Claim("D5", "the difficulty filter helps", "67.99 against 65.84 (32B)", "hard", "nd", accuracy()),
    Claim(
        "D5 shares", "the same, with nd's shares of the sets", "no number", "hard-shares", "nd", accuracy()
    ),
    Claim(
        "D6",
        f"null control: gpr-up equals nd within {MARGIN:g} points",
        "58.12 against 55.66, blends that differ by 0.4 points of weight",
        "gpr-up",
        "nd",
        accuracy(),
        margin=MARGIN,
    ),
    Claim("AND", "accuracy AND form beats their sum", "AND is used; no number", "nd", "sum", accuracy()),
    Claim(
        "coin",
        f"control: a coin as reward changes nothing, within {MARGIN:g} points",
        "not run",
        "random",
        "start",
        accuracy(),
        margin=MARGIN,
    ),
    Claim("coin, GRPO", "right answers teach more than a coin", "not run", "nd", "random", accuracy()),
]


def main() -> None:
    arms = load(HERE / "results.jsonl")
    seeds = sorted({seed for name, own in arms.items() if name != "start" for seed in own})
    for name in {"start", "start-text"} & set(arms):
        arms[name] = dict.fromkeys(seeds, arms[name][0])
    picture(arms)
    setting = json.loads((HERE / "results.jsonl").read_text().splitlines()[0])["setting"]
    intro = (HERE / "intro.md").read_text().format(seeds=len(seeds), **setting)
    PAGE.write_text("\n".join([intro, *claims(arms), *table(arms), *lengths(arms), *signal()]) + "\n")


def claims(arms: Mapping[str, Mapping[int, Questions]]) -> Iterator[str]:
    yield "| | claim | the paper | here, points (95 % over seeds) | seeds | |\n|---|---|---|---|---|---|"
    left_out = []
    for claim in CLAIMS:
        if claim.arm not in arms or claim.other not in arms:
            left_out.append(claim.label)
            continue
        found = difference(arms[claim.arm], arms[claim.other], claim.measure)
        if claim.starts is not None:
            ahead = difference(*(arms[name] for name in claim.starts), claim.measure).mean
            found = Difference(found.mean - ahead, found.low - ahead, found.high - ahead)
        num_seeds = len(set(arms[claim.arm]) & set(arms[claim.other]))
        yield (
            f"| {claim.label} | {claim.words} | {claim.paper} | {signed(found)} | {num_seeds} | "
            f"**{verdict(found, margin=claim.margin) if num_seeds >= NUM_SEEDS else 'cannot tell yet'}** |"
        )
    if left_out:
        yield f"\nNot run yet: {', '.join(left_out)}."
    yield ""


def table(arms: Mapping[str, Mapping[int, Questions]]) -> Iterator[str]:
    yield "## Every arm\n"
    yield "![Accuracy of every arm](../images/crossthink/arms.png)\n"
    yield "Accuracy in points: mean over seeds, least and greatest. Tokens are of right answers.\n"
    yield "| arm | all | maths | general | tokens, maths | tokens, general | tokens per right answer |"
    yield "|---|---|---|---|---|---|---|"
    for name, own in ordered(arms):
        cells = [spread(own, measure) for measure in (accuracy(), accuracy("math"), accuracy("gpr"))]
        cells += [spread(own, m) for m in (tokens_of_right("math"), tokens_of_right("gpr"), tokens_per_right)]
        yield f"| {TITLES[name]} | {' | '.join(cells)} |"
    yield ""


def lengths(arms: Mapping[str, Mapping[int, Questions]]) -> Iterator[str]:
    yield "## Tokens (D2)\n"
    if not {"gpr-up", "only-math"} <= set(arms):
        yield "Not run yet."
        return
    general = difference(arms["gpr-up"], arms["only-math"], tokens_of_right("gpr"))
    maths = difference(arms["gpr-up"], arms["only-math"], tokens_of_right("math"))
    yield (
        "The paper: right answers of gpr-up are shorter than those of mathematics alone, general ones by "
        "40 % (385 against 639 tokens), mathematical ones by 15 % (622 against 731). Here general ones "
        f"differ by {signed(general)} tokens and mathematical ones by {signed(maths)}: "
        f"**{verdict(Difference(-general.mean, -general.high, -general.low))}** for general ones. The "
        "answers of this start are worked solutions of fixed steps, so there is little to shorten."
    )


def signal() -> Iterator[str]:
    """What the arms learned from: counts of their training, from `training.json`."""
    rows = json.loads((HERE / "training.json").read_text())
    yield "\n## What they learned from\n"
    yield (
        "Every arm had the same steps, prompts and rollouts. A group whose answers are all wrong or all "
        "right teaches nothing. Means over seeds; the KL penalty's estimate is of the last ten steps.\n"
    )
    yield "| arm | rollouts | right | groups all wrong | groups all right | KL from the start |"
    yield "|---|---|---|---|---|---|"
    for name in TITLES:
        if own := [row for row in rows if row["arm"] == name]:
            mean = {key: sum(row[key] for row in own) / len(own) for key in own[0] if key != "arm"}
            shares = " | ".join(f"{mean[key]:.0%}" for key in ("right", "all_wrong", "all_right"))
            yield f"| {TITLES[name]} | {mean['rollouts']:,.0f} | {shares} | {mean['kl']:.3f} |"


def picture(arms: Mapping[str, Mapping[int, Questions]]) -> None:
    """Accuracy of every arm: mean and seeds, all, mathematics, general."""
    rows = list(ordered(arms))[::-1]
    panels = (("all", None), ("mathematics", "math"), ("general", "gpr"))
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.42 * len(rows) + 1.2), sharey=True)
    for axis, (title, domain) in zip(axes, panels, strict=True):
        measure = accuracy(domain)
        start = measure(arms["start"][0])
        axis.axvline(start, color="#8d8a7c", linewidth=1, linestyle=(0, (3, 3)))
        for place, (name, own) in enumerate(rows):
            values = [measure(questions) for questions in own.values()]
            colour = "#b05a1f" if name == "random" else "#8d8a7c" if "start" in name else "#22705a"
            axis.plot(values, [place] * len(values), "o", color=colour, alpha=0.45, markersize=5)
            axis.plot(sum(values) / len(values), place, "|", color=colour, markersize=15, markeredgewidth=2.2)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("accuracy, points")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
        axis.grid(axis="x", color="#e5e2d6", linewidth=0.7)
    axes[0].set_yticks(range(len(rows)), [TITLES[name] for name, _ in rows])
    figure.tight_layout()
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=130)


def ordered(arms: Mapping[str, Mapping[int, Questions]]) -> Iterator[tuple[str, Mapping[int, Questions]]]:
    return ((name, arms[name]) for name in TITLES if name in arms)


def spread(own: Mapping[int, Questions], measure: Measure) -> str:
    values = [measure(questions) for questions in own.values()]
    mean = over_seeds(values).mean
    return f"{mean:.1f}" if len(set(values)) == 1 else f"{mean:.1f} ({min(values):.1f}–{max(values):.1f})"


def signed(found: Difference) -> str:
    if found.high == float("inf"):
        return f"{found.mean:+.1f} (one seed)"
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


if __name__ == "__main__":
    main()
