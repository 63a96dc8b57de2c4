"""The page of a run: one HTML file that loads nothing from anywhere and needs no JavaScript.

Every figure is drawn twice, for a laptop and for a phone; the style sheet shows one of them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from niwaki.ground.run import write_atomically
from niwaki.reporting import figures, words
from niwaki.reporting.collect import collect
from niwaki.reporting.facts import Collected, Interval, Sample
from niwaki.reporting.table import TITLES, comparison

WIDE, NARROW = 760.0, 346.0
NUM_CANDIDATE_CURVES = 12


@dataclass(frozen=True)
class Figure:
    """One drawing at the two widths."""

    wide: Markup
    narrow: Markup


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into the run directory and return its path; a stage that has not run is said so.

    Raises:
        RunError: `run_dir` is not a run directory, or one of its files is damaged.
    """
    run = collect(run_dir)
    out = run.run_dir / "report.html"
    write_atomically(out, render("report.html.j2", page_facts(run)))
    return out


def render(template: str, facts: dict[str, Any]) -> str:
    """Fill a template; in HTML every value is escaped."""
    return environment().get_template(template).render(facts)


def environment() -> Environment:
    """The templates and the filters that they use; values in `*.html.j2` are escaped."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        quantity=words.quantity, shape=words.shape, title=TITLES.__getitem__, cell=markdown_text
    )
    return made


def markdown_text(value: str) -> str:
    """Foreign text as one line of Markdown, with nothing in it that Markdown or HTML acts on."""
    return re.sub(r"([\\`*_\[\]<>|&#])", r"\\\1", " ".join(str(value).split()))


def page_facts(run: Collected) -> dict[str, Any]:
    """Everything the page shows, in the words and drawings it shows it in."""
    return {
        "run": run,
        "headline": words.headline(run),
        "catch_up": _catch_up_words(run),
        "lead": _lead(run),
        "steps": _steps(run),
        "number_line": _number_line(run),
        "table": comparison(run.results),
        "trees": _trees(run),
        "importance": _importance(run),
        "hidden": _hidden(run),
        "depth": _depth(run),
        "dropped_layers": _dropped_layers(run),
        "ranking": _ranking(run),
        "candidate_curves": _candidate_curves(run),
        "bump": _bump(run),
        "settled": words.settled(run),
        "halved": words.halved(run),
        "pareto": _pareto(run),
        "held_out_curves": _held_out_curves(run),
        "training_curves": _training_curves(run),
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


def _both(draw: Callable[[float], Markup]) -> Figure:
    return Figure(wide=draw(WIDE), narrow=draw(NARROW))


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


def _lead(run: Collected) -> str | None:
    caught = words.catch_up(run)
    return f"{words.times(caught[1] / caught[0])} fewer tokens" if caught and caught[0] else None


def _number_line(run: Collected) -> Figure | None:
    losses: dict[str, Interval] = {
        name: result.held_out_loss for name, result in run.results.items() if result.held_out_loss is not None
    }
    return _both(lambda width: figures.number_line(losses, TITLES, width)) if len(losses) > 1 else None


def _trees(run: Collected) -> Figure | None:
    if run.trim is not None:
        whole, cut, kept = run.trim.sizes_from, run.trim.sizes_to, run.trim.keep.get("layer")
        counts = run.trim.num_parameters_from, run.trim.num_parameters_to
    elif run.choice is not None and run.choice.chosen is not None:
        whole, cut, kept = run.choice.teacher_sizes, run.choice.chosen.sizes, None
        counts = run.choice.teacher_num_parameters, run.choice.chosen.num_parameters
    else:
        return None
    captions = (
        f"{TITLES['parent' if run.distill_teacher_path else 'teacher']}, "
        f"{words.quantity(counts[0])} parameters",
        f"Student, {words.quantity(counts[1])} parameters",
    )
    return _both(lambda width: figures.trees(whole, cut, kept, captions, width))


def _importance(run: Collected) -> Figure | None:
    scores = run.importance
    if scores is None or not (scores.layer or scores.ffn or scores.group):
        return None
    keep = run.trim.keep if run.trim else None
    return _both(lambda width: figures.importance_by_layer(scores, keep, width))


def _hidden(run: Collected) -> Figure | None:
    scores = run.importance
    if scores is None or not scores.hidden:
        return None
    keep = run.trim.keep if run.trim else None
    return _both(lambda width: figures.importance_of_hidden(scores, keep, width))


def _dropped_layers(run: Collected) -> str | None:
    """The layers that went, in a sentence."""
    names = run.trim.dropped_layers if run.trim else []
    if not names:
        return None
    return f"{'Layer' if len(names) == 1 else 'Layers'} dropped: {', '.join(names)}."


def _depth(run: Collected) -> Figure | None:
    """The measure without each block, or single layer, that the dropped ones were chosen from."""
    if run.depth is None or run.trim is None or "layer" not in run.trim.keep:
        return None
    values = run.depth.values
    gone = [n for n in range(run.trim.sizes_from["layer"]) if n not in run.trim.keep["layer"]]
    chosen = [tuple(gone)] if tuple(gone) in values else [(layer,) for layer in gone]
    length = len(chosen[0])
    tried = sorted((layers[0], value) for layers, value in values.items() if len(layers) == length)
    if len(tried) < 2 or not all(layers in values for layers in chosen):
        return None
    of_what = "layer" if length == 1 else f"block of {length} layers"
    lines = [figures.Line("", "plain", [(float(start), value) for start, value in tried], marked=True)]
    lines += [
        figures.Line("dropped", "random", [(float(layers[0]), values[layers])], marked=True)
        for layers in chosen
    ]
    measure = "block influence" if run.depth.measure == "influence" else run.depth.measure
    whole = values.get(()) if run.depth.measure != "influence" else None
    return _both(
        lambda width: figures.line_chart(
            lines,
            width=width,
            label=f"{measure} of the teacher without each {of_what}, by the number of its first layer.",
            x_title="first layer that is left out" if length > 1 else "layer that is left out",
            y_title=measure,
            log=False,
            reference=None if whole is None else (TITLES["teacher"], whole),
        )
    )


def _ranking(run: Collected) -> Figure | None:
    if run.choice is None or not run.choice.candidates:
        return None
    candidates = run.choice.candidates
    return _both(lambda width: figures.ranking(candidates, width))


def _bump(run: Collected) -> Figure | None:
    if run.choice is None or run.choice.settled is None:
        return None
    settled, candidates = run.choice.settled, run.choice.candidates
    return _both(lambda width: figures.bump(settled, candidates, width))


def _pareto(run: Collected) -> Figure | None:
    if run.choice is None or not run.choice.fronts or len(run.choice.candidates) < 2:
        return None
    candidates, fronts = run.choice.candidates, run.choice.fronts
    return _both(lambda width: figures.pareto(candidates, fronts, width))


def _candidate_curves(run: Collected) -> Figure | None:
    candidates = [candidate for candidate in (run.choice.candidates if run.choice else []) if candidate.curve]
    if len(candidates) < 2:
        return None
    ranked = sorted(candidates, key=lambda candidate: candidate.curve[-1][1])[:NUM_CANDIDATE_CURVES]
    lines = [figures.Line("", "plain", candidate.curve) for candidate in ranked if not candidate.chosen]
    lines += [
        figures.Line("chosen", "distilled", candidate.curve) for candidate in candidates if candidate.chosen
    ]
    return _both(
        lambda width: figures.line_chart(
            lines,
            width=width,
            label="Held-out loss of each candidate during its short distillation.",
            x_title="steps",
            y_title="held-out loss, nats per token",
        )
    )


def _held_out_curves(run: Collected) -> Figure | None:
    if not any(curve.held_out for curve in run.curves.values()):
        return None
    lines = [
        figures.Line(TITLES[name], name, curve.held_out, marked=True) for name, curve in run.curves.items()
    ]
    teacher = run.results.get("teacher")
    level = teacher.curve_loss if teacher else None
    caught = words.catch_up(run)
    bridge = None
    if caught and caught[0]:
        ours, theirs, loss = caught
        bridge = figures.Bridge(ours, theirs, loss, _lead(run) or "")
    return _both(
        lambda width: figures.line_chart(
            lines,
            width=width,
            label="Held-out loss against tokens seen, distilled and from random weights; axes logarithmic.",
            x_title="tokens seen",
            y_title="held-out loss, nats per token",
            reference=None if level is None else (TITLES["teacher"], level),
            bridge=bridge,
        )
    )


def _training_curves(run: Collected) -> Figure | None:
    lines = [
        figures.Line(TITLES[n], n, figures.smooth(c.training)) for n, c in run.curves.items() if c.training
    ]
    if not lines:
        return None
    return _both(
        lambda width: figures.line_chart(
            lines,
            width=width,
            label="Training loss against tokens seen; both axes logarithmic.",
            x_title="tokens seen",
            y_title="training loss, nats per token",
        )
    )
