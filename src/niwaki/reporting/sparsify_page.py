"""The page of a sparsify run: what each way to the same sparsity costs, and what learning changed.

Reads the run directory alone; a stage that has not run is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from niwaki.ground.metrics import read_metrics
from niwaki.ground.run import write_atomically
from niwaki.reporting import words
from niwaki.reporting.figures.bars import layer_bars
from niwaki.reporting.figures.curves import Line, line_chart
from niwaki.reporting.page import Figure, both_widths, render
from niwaki.reporting.run_files import naming, open_run, read_files, recipe_text
from niwaki.reporting.table import SHARES, Cell

METHODS = {
    "dense": ("Dense", ""),
    "magnitude": ("Magnitude", "one shot"),
    "wanda": ("Wanda", "one shot"),
    "sparsegpt": ("SparseGPT", "one shot, mask only"),
    "sparsegpt_update": ("SparseGPT", "one shot, weights updated"),
    "prior": ("Prior", "the mask that learning began from"),
}
_FILES = {
    "prior": "1-prior/prior.json",
    "learn": "2-learn/learn.json",
    "results": "4-evaluate/results.json",
    "manifest": "manifest.json",
}


def write_sparsify_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a sparsify run's directory and return its path.

    Raises:
        RunError: it is no such run, or one of its files is damaged.
    """
    run = open_run(run_dir)
    facts = read_sparsify(run) | {"recipe": recipe_text(run)}
    out = run / "report.html"
    write_atomically(out, render("sparsify.html.j2", facts))
    return out


def read_sparsify(run: Path) -> dict[str, Any]:
    """`sparsify_facts` of a run directory. Raises RunError where one of its files is damaged."""
    found = read_files(run, _FILES)
    with naming(run):
        return sparsify_facts(found, read_metrics(run / "2-learn" / "metrics.jsonl"), name=run.resolve().name)


def sparsify_facts(found: Mapping[str, Any], metrics: list[dict[str, Any]], *, name: str) -> dict[str, Any]:
    """Everything the page shows, from the files of a run that are there."""
    results, learned, prior = found["results"], found["learn"], found["prior"]
    models = {} if results is None else results["models"]
    is_learned = bool(results and results["mask"]["learned"])
    titles = METHODS | {"sparse": ("Learned", "this run") if is_learned else ("This run", _way(prior))}
    tasks = sorted({task for model in models.values() for task in model["tasks"]})
    return {
        "name": name,
        "headline": _headline(results, is_learned),
        "lede": _lede(results),
        "columns": [
            ("Held-out loss", "nats per token"),
            ("Perplexity", ""),
            ("KL to dense", "nats per token"),
            *((task, "%") for task in tasks),
        ],
        "rows": [
            {"title": titles[key], "is_result": key == "sparse", "cells": _cells(model, tasks)}
            for key, model in models.items()
        ],
        "curve": _curve(metrics, models),
        "difference": None if learned is None else learned["difference"],
        "moved": _moved(learned),
        "sensitivity": _sensitivity(results),
        "dense": [] if prior is None else prior["dense"],
        "speed": None if results is None else results["speed"],
        "steps": None if learned is None else learned["steps"],
        "tokens": None if learned is None else words.quantity(learned["tokens"]),
        "provenance": _provenance(found["manifest"]),
    }


def _way(prior: Mapping[str, Any] | None) -> str:
    if prior is None:
        return ""
    return f"{prior['method']}{', weights updated' if prior['update'] else ', mask only'}"


def _headline(results: Mapping[str, Any] | None, is_learned: bool) -> str:
    if results is None:
        return "The run is not finished yet."
    mask, models = results["mask"], results["models"]
    dense, sparse = (models[key]["held_out_loss"]["mean"] for key in ("dense", "sparse"))
    way = "A learned mask" if is_learned else "A one-shot mask"
    return (
        f"{way} keeps {mask['pattern'].replace(':', ' of every ')} weights at {sparse - dense:+.3f} nats per "
        "held-out token."
    )


def _lede(results: Mapping[str, Any] | None) -> str | None:
    if results is None:
        return None
    mask = results["mask"]
    text = (
        f"The mask covers {words.quantity(mask['num_weights'])} weights and takes "
        f"{words.megabytes(mask['bytes'])}, {mask['bits_per_weight']:.3f} bit per weight."
    )
    if mask["updated_weights"]:
        text += " It is laid over weights that SparseGPT updated, not over those of the dense checkpoint."
    models = results["models"]
    if "sparsegpt_update" in models and mask["learned"]:
        levels = [models[key]["held_out_loss"]["mean"] for key in ("sparsegpt_update", "sparse", "dense")]
        if levels[0] > max(levels[1:]):
            closed = (levels[0] - levels[1]) / (levels[0] - levels[2])
            text += f" It closes {closed:.0%} of the gap between SparseGPT with updated weights and dense."
    return text


def _cells(model: Mapping[str, Any], tasks: list[str]) -> list[Cell]:
    loss, kl = model["held_out_loss"], model["kl_to_dense"]
    cells = [
        Cell(f"{loss['mean']:.3f}", f"{loss['low']:.3f}–{loss['high']:.3f}"),
        Cell(f"{model['perplexity']:.2f}"),
        Cell("") if kl is None else Cell(f"{kl['mean']:.4f}", f"{kl['low']:.4f}–{kl['high']:.4f}"),
    ]
    for task in tasks:
        score = next((v for k, v in model["tasks"].get(task, {}).items() if k in SHARES), None)
        cells.append(Cell("" if score is None else f"{100 * score:.1f}"))
    return cells


def _curve(metrics: list[dict[str, Any]], models: Mapping[str, Any]) -> Figure | None:
    """Held-out cross-entropy by step, with the argmax mask; what training samples is another thing."""
    points = [
        (float(record["step"]), record["held_out_cross_entropy"])
        for record in metrics
        if "held_out_cross_entropy" in record
    ]
    if len(points) < 2:
        return None
    dense = ("Dense", models["dense"]["curve_loss"]) if models else None
    return both_widths(
        lambda width: line_chart(
            [Line("Learned mask", "distilled", points, marked=True)],
            width=width,
            label="Held-out loss of the learned mask by training step.",
            x_title="steps",
            y_title="held-out loss, nats per token",
            log=False,
            reference=dense,
        )
    )


def _moved(learned: Mapping[str, Any] | None) -> Figure | None:
    if learned is None or not learned["layers"]:
        return None
    values = [(f"layer {layer}", share) for layer, share in learned["layers"].items()]
    return both_widths(
        lambda width: layer_bars(
            values,
            width=width,
            label="Share of mask entries that learning changed, layer by layer.",
            shown=lambda value: f"{value:.1%}",
        )
    )


def _sensitivity(results: Mapping[str, Any] | None) -> Figure | None:
    if results is None or not results["sensitivity"]:
        return None
    values = [(f"layer {layer}", nats) for layer, nats in results["sensitivity"].items()]
    return both_widths(
        lambda width: layer_bars(
            values,
            width=width,
            label="Loss that each layer costs when it alone is masked.",
            shown=lambda value: f"{value:+.4f}",
            class_="cut",
        )
    )


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Model", manifest["model"]["path"]),
        ("Text", manifest["data"]["source"]),
        ("Seed", str(manifest["seed"])),
        ("Command", manifest["command"]),
        ("niwaki", manifest["niwaki"]),
        *((name, version) for name, version in manifest["versions"].items() if name != "python"),
    ]
