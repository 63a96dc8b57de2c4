"""Write `docs/results/minitron.md` and its pictures from `results/*.json`.

    python experiments/minitron/page.py

Nothing is measured here. A direction without a result is left out, and named below the summary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "results" / "minitron.md"
IMAGES = ROOT / "docs" / "images" / "minitron"
TEACHERS = ("sapling", "novels")
COLOURS = ["#2f6f4f", "#c2703d", "#4a6fa5", "#8a5a83", "#a88f2a", "#666666", "#b34a4a", "#3b8686", "#777700"]

DIRECTIONS = {
    "d1": "The aggregation",
    "d2": "Width against depth",
    "d3": "Ways to a student",
    "d4": "With or without the LM loss",
    "d5": "Forward against reverse KL",
    "d6": "Hidden-state losses when half the layers go",
    "d7": "Scoring once or in rounds",
    "d8": "When the ranking settles",
    "d9": "One block or scattered layers",
    "d10": "Correcting the teacher",
    "d11": "Around the cut, after distillation",
}


def load(direction: str) -> dict[str, dict[str, Any]]:
    """Teacher -> result, for those that are there."""
    found = {name: RESULTS / f"{direction}-{name}.json" for name in TEACHERS}
    return {name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}


def spread(values: list[float]) -> str:
    """Mean of the seeds, and the largest distance of one from it."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3f} (one seed)"
    return f"{mean:.3f} ± {max(abs(v - mean) for v in values):.3f}"


def section(direction: str, title: str) -> Iterator[str]:
    results = load(direction)
    if not results:
        return
    first = next(iter(results.values()))
    yield f"## {direction.upper()}. {title}\n"
    yield f"The claim: {first['claim']}. The paper: {first['paper']}.\n"
    yield "| teacher | comparison | difference in nats (95 % over seeds) | verdict |"
    yield "|---|---|---|---|"
    for name, result in results.items():
        for c in result["comparisons"]:
            sign = "≈" if "equal_within" in c else "<"
            what = f"{c['better']} {sign} {c['worse']}, {c['when']} training"
            yield (
                f"| {name} | {what} | {c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f}) "
                f"| **{c['verdict']}** |"
            )
    yield ""
    for name, result in results.items():
        yield f"{name}: teacher {result['teacher_loss']:.3f} nats per held-out token.\n"
        yield "| arm | parameters | tokens | before training | after |"
        yield "|---|---|---|---|---|"
        for arm, numbers in result["arms"].items():
            after = spread(numbers["after"]) if numbers["after"] else ""
            yield (
                f"| {arm} | {numbers['num_parameters']:,} | {numbers['num_tokens']:,} "
                f"| {spread(numbers['before'])} | {after} |"
            )
        yield ""
        yield from extras(direction, result)
    if draw(direction, results):
        yield f"![{title}](../images/minitron/{direction}.png)\n"


def extras(direction: str, result: dict[str, Any]) -> Iterator[str]:
    """What a direction reports beside losses."""
    if "ranking" in result:
        ranking = result["ranking"]
        settled = ", ".join(f"{seed['settled_after_tokens']:,}" for seed in ranking["seeds"])
        tau = ", ".join(f"{seed['kendall_tau_with_the_last'][0]:+.2f}" for seed in ranking["seeds"])
        yield (
            f"Best before any training: {ranking['best_before']}; best after: {ranking['best_after']} "
            f"(layers-hidden-neurons). Kendall's tau of the order before training with the last one: {tau} "
            f"for the three seeds. Tokens after which the order no longer changed: {settled}.\n"
        )
    if "task" in result:
        task = result["task"]
        yield (
            f"On a task ({task['what']}; {task['num_questions']} questions; teacher {task['teacher']:.3f}):\n"
        )
        yield "| | block | scattered | block - scattered (95 %) | verdict |"
        yield "|---|---|---|---|---|"
        for found in task["block_minus_scattered"]:
            accuracy = task["accuracy"][found["when"]]
            yield (
                f"| {found['when']} training | {spread(accuracy['block'])} | {spread(accuracy['scattered'])} "
                f"| {found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}) "
                f"| **{found['verdict']}** |"
            )
        dropped = result["dropped_layers"]
        yield f"\nLayers dropped, seed by seed: block {dropped['block']}, scattered {dropped['scattered']}.\n"


def draw(direction: str, results: dict[str, dict[str, Any]]) -> bool:
    """Training curves of every arm where there are some, else bars of the losses before training."""
    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 3.6), squeeze=False)
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        trained = {arm: n for arm, n in result["arms"].items() if n["after"]}
        if trained:
            for (arm, numbers), colour in zip(trained.items(), COLOURS, strict=False):
                for number, curve in enumerate(numbers["curves"]):
                    tokens, losses = zip(*curve, strict=True)
                    label = arm if number == 0 else None
                    axis.plot(
                        [t / 1000 for t in tokens], losses, color=colour, alpha=0.75, lw=1.3, label=label
                    )
            axis.set_xlabel("thousand tokens")
        else:
            arms = list(result["arms"])
            for number, arm in enumerate(arms):
                values = result["arms"][arm]["before"]
                axis.scatter([number] * len(values), values, color=COLOURS[number % len(COLOURS)], s=18)
            axis.set_xticks(range(len(arms)), arms, rotation=40, ha="right", fontsize=8)
        if not trained:  # curves are of fewer rows, where the teacher has another loss
            axis.axhline(result["teacher_loss"], color="#999999", ls=":", lw=1)
            axis.text(
                0.99,
                result["teacher_loss"],
                "teacher",
                transform=axis.get_yaxis_transform(),
                ha="right",
                va="bottom",
                fontsize=8,
                color="#777777",
            )
        axis.set_title(name, fontsize=10)
        axis.set_ylabel("nats per token, first 16 held-out rows" if trained else "held-out nats per token")
        axis.spines[["top", "right"]].set_visible(False)
        if trained:
            axis.legend(frameon=False, fontsize=8)
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / f"{direction}.png", dpi=110)
    plt.close(figure)
    return True


def summary() -> Iterator[str]:
    yield "| | the paper's finding | sapling | novels |"
    yield "|---|---|---|---|"
    for direction in DIRECTIONS:
        results = load(direction)
        if not results:
            continue
        first = next(iter(results.values()))
        cells = []
        for name in TEACHERS:
            if name not in results:
                cells.append("not run")
                continue
            main = (
                results[name].get("task", {}).get("block_minus_scattered") or results[name]["comparisons"]
            )[0]
            cells.append(f"{main['difference']:+.3f}: {main['verdict']}")
        yield f"| [{direction.upper()}](#{anchor(direction)}) | {first['claim']} | {cells[0]} | {cells[1]} |"
    yield ""


def anchor(direction: str) -> str:
    kept = [c for c in f"{direction} {DIRECTIONS[direction]}".lower() if c.isalnum() or c in " -"]
    return "".join(kept).replace(" ", "-")


def headline() -> Iterator[str]:
    results = load("parity")
    if not results:
        return
    yield "## Tokens to parity\n"
    for name, result in results.items():
        found = result["parity"]
        if found["reached"]:
            said = f"reached at **{found['reached']:g} times** the student's tokens, between two points"
        else:
            said = (
                f"not reached at **{found['above']:g} times** the student's tokens, the most that was run; "
                f"the line through the last two points meets it at about {found['extrapolated']:.0f} times, "
                "an extrapolation"
            )
        yield (
            f"**{name}**: the student, pruned and distilled on {found['student_tokens']:,} tokens, is at "
            f"{found['student_loss']:.3f}. Its shape from random weights, on the text alone: {said}.\n"
        )
        yield "| times the tokens | tokens | loss from random weights |"
        yield "|---|---|---|"
        for tokens, loss in found["curve"]:
            yield f"| {tokens / found['student_tokens']:.0f} | {tokens:,} | {loss:.3f} |"
        yield ""
    draw_parity(results)
    yield "![Loss of the student's shape from random weights against tokens](../images/minitron/parity.png)\n"


def beyond() -> Iterator[str]:
    """Rotation, norm rescaling and repair: one calibration set each, so without intervals."""
    paths = sorted(RESULTS.glob("beyond-*.json"))
    if not paths:
        return
    yield "## Beyond the papers: around the cut\n"
    yield (
        "KL(teacher || cut model) in nats per held-out token before any training, of hidden cuts (rotated "
        "into the principal directions of the residual stream or not, norm weights rescaled by "
        "sqrt(old / new width) or not) and of MLP cuts, each without and with the closed-form repair. One "
        "calibration set each, so no interval: `python experiments/minitron/beyond.py --teacher sapling "
        "--data stdlib --out FILE`. A rotation unties the embedding of these two teachers, which adds a head "
        "to the student's parameters.\n"
    )
    for path in paths:
        found = json.loads(path.read_text())
        yield f"{path.stem.removeprefix('beyond-')}:\n"
        yield "| cut | treatment | parameters | cut alone | with repair |"
        yield "|---|---|---|---|---|"
        rows: dict[tuple[Any, ...], dict[bool, float]] = {}
        parameters = {}
        for r in found["results"]:
            key = (r["axis"], r["size"], r["rotate"], r["rescale"])
            rows.setdefault(key, {})[r["repair"]] = r["kl"]
            parameters[key] = r["num_parameters"]
        for key, kl in rows.items():
            axis, size, rotate, rescale = key
            done = [name for name, on in (("rotate", rotate), ("rescale", rescale)) if on]
            yield (
                f"| {axis} {size} | {' + '.join(done) or 'none'} | {parameters[key]:,} "
                f"| {kl[False]:.3f} | {kl[True]:.3f} |"
            )
        yield ""


def draw_parity(results: dict[str, dict[str, Any]]) -> None:
    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 3.4), squeeze=False)
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        found = result["parity"]
        tokens, losses = zip(*found["curve"], strict=True)
        axis.plot(tokens, losses, "o-", color=COLOURS[1], label="random weights, text")
        axis.plot(
            [found["student_tokens"]], [found["student_loss"]], "s", color=COLOURS[0], label="pruned, KD"
        )
        axis.axhline(found["student_loss"], color=COLOURS[0], ls=":", lw=1)
        axis.set_xscale("log", base=2)
        axis.set_xticks(tokens, [f"{t / 1e6:.2g}M" for t in tokens])
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("training tokens")
        axis.set_ylabel("held-out nats per token")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / "parity.png", dpi=110)
    plt.close(figure)


def main() -> None:
    body = [line for direction, title in DIRECTIONS.items() for line in section(direction, title)]
    names = {name: name.upper() for name in DIRECTIONS} | {"parity": "tokens to parity"}
    missing = [said for name, said in names.items() if not load(name)]
    intro = (Path(__file__).parent / "intro.md").read_text()
    absent = [f"Not run yet: {', '.join(missing)}.\n"] if missing else []
    lines = [intro, *summary(), *absent, *headline(), *body, *beyond()]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines).rstrip() + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
