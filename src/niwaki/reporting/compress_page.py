"""The page of a compress run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from niwaki.ground.run import write_atomically
from niwaki.reporting import compress_figures, words
from niwaki.reporting.collect import collect
from niwaki.reporting.facts import Collected, Sample
from niwaki.reporting.page import render
from niwaki.reporting.table import TITLES, comparison


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into the run directory and return its path; a stage that has not run is said so.

    Raises:
        RunError: `run_dir` is not a run directory, or one of its files is damaged.
    """
    run = collect(run_dir)
    out = run.run_dir / "report.html"
    write_atomically(out, render("report.html.j2", page_facts(run)))
    return out


def page_facts(run: Collected) -> dict[str, Any]:
    """Everything the page shows, in the words and drawings it shows it in."""
    return {
        "run": run,
        "headline": words.headline(run),
        "catch_up": _catch_up_words(run),
        "lead": words.lead(run),
        "steps": _steps(run),
        "number_line": compress_figures.number_line(run),
        "table": comparison(run.results),
        "trees": compress_figures.trees(run),
        "importance": compress_figures.importance(run),
        "hidden": compress_figures.hidden(run),
        "depth": compress_figures.depth(run),
        "dropped_layers": _dropped_layers(run),
        "ranking": compress_figures.ranking(run),
        "candidate_curves": compress_figures.candidate_curves(run),
        "bump": compress_figures.bump(run),
        "settled": words.settled(run),
        "halved": words.halved(run),
        "pareto": compress_figures.pareto(run),
        "held_out_curves": compress_figures.held_out_curves(run),
        "training_curves": compress_figures.training_curves(run),
        "samples": run.samples,
        "sample_columns": sample_columns(run.samples),
        "student_python": json.dumps(str(run.student_dir), ensure_ascii=False),
        "student_shell": shlex.quote(str(run.student_dir)),
        "provenance": provenance(run),
    }


def sample_columns(samples: list[Sample]) -> list[str]:
    """The models that wrote at least one of the samples."""
    return [name for name in TITLES if any(name in sample.continuations for sample in samples)]


def provenance(run: Collected) -> list[tuple[str, str]]:
    """Where the run came from, as (what, value) in reading order; what the manifest lacks is left out."""
    manifest = run.manifest
    teacher, data, hardware = (manifest.get(name) or {} for name in ("teacher", "data", "hardware"))
    accelerators = ", ".join(map(str, hardware.get("accelerators") or [])) or "none"
    facts = {
        "Command": manifest.get("command"),
        "Created": manifest.get("created"),
        "Seed": manifest.get("seed"),
        "Teacher": run.teacher_path,
        "Teacher fingerprint": teacher.get("fingerprint"),
        "Distilled from": run.distill_teacher_path,
        "Data": data.get("source"),
        "Data fingerprint": data.get("fingerprint"),
        "Training tokens": _maybe(data.get("num_train_tokens"), words.quantity),
        "Held-out tokens": _maybe(data.get("num_held_out_tokens"), words.quantity),
        "Processor": hardware.get("cpu"),
        "Processor cores": hardware.get("num_cpus"),
        "Memory": _maybe(hardware.get("memory_bytes"), words.megabytes),
        "Accelerators": accelerators if hardware else None,
        "niwaki": manifest.get("niwaki"),
        **(manifest.get("versions") or {}),
    }
    return [(what, str(value)) for what, value in facts.items() if value is not None]


def _maybe(value: float | None, text: Callable[[float], str]) -> str | None:
    return None if value is None else text(value)


def _steps(run: Collected) -> list[tuple[str, str, str]]:
    """The stages as (name, anchor, state)."""
    anchors = {
        "1-score": "importance",
        "2-choose": "candidates",
        "3-trim": "shape",
        "4-distill": "training",
        "5-evaluate": "results",
    }
    steps = []
    for stage, anchor in anchors.items():
        under_way = stage == "4-distill" and "distilled" in run.curves
        state = "done" if run.finished[stage] else "under way" if under_way else "not run"
        steps.append((stage.split("-")[1], anchor, state))
    return steps


def _catch_up_words(run: Collected) -> str | None:
    caught = words.catch_up(run)
    if caught is None:
        return None
    ours, theirs, loss = caught
    if ours == 0:
        return (
            f"After {words.quantity(theirs)} tokens of the same teaching, the same shape started from random "
            "weights has not come to where the trimmed teacher was before its first."
        )
    return (
        f"Started from random weights, the same shape needed {words.quantity(theirs)} tokens of the same "
        f"teaching to reach a held-out loss of {loss:.2f}; started from the trimmed teacher it took at most "
        f"{words.quantity(ours)}, {words.times(theirs / ours)} fewer."
    )


def _dropped_layers(run: Collected) -> str | None:
    """The layers that went, in a sentence."""
    names = run.trim.dropped_layers if run.trim else []
    if not names:
        return None
    return f"{'Layer' if len(names) == 1 else 'Layers'} dropped: {', '.join(names)}."
