"""The drawings of a compress run's page; None where the run does not show what a drawing needs."""

from __future__ import annotations

from niwaki.reporting import figures, words
from niwaki.reporting.facts import Collected, Interval
from niwaki.reporting.page import Figure, both_widths
from niwaki.reporting.table import TITLES

_MOST_CURVES = 12


def number_line(run: Collected) -> Figure | None:
    """The held-out losses on one line, from two models on."""
    losses: dict[str, Interval] = {
        name: result.held_out_loss for name, result in run.results.items() if result.held_out_loss is not None
    }
    return both_widths(lambda width: figures.number_line(losses, TITLES, width)) if len(losses) > 1 else None


def trees(run: Collected) -> Figure | None:
    """The teacher's shape beside the student's."""
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
    return both_widths(lambda width: figures.trees(whole, cut, kept, captions, width))


def importance(run: Collected) -> Figure | None:
    """What matters in each layer, and what was kept of it."""
    scores = run.importance
    if scores is None or not (scores.layer or scores.ffn or scores.group):
        return None
    keep = run.trim.keep if run.trim else None
    return both_widths(lambda width: figures.importance_by_layer(scores, keep, width))


def hidden(run: Collected) -> Figure | None:
    """What matters among the hidden channels, and what was kept of it."""
    scores = run.importance
    if scores is None or not scores.hidden:
        return None
    keep = run.trim.keep if run.trim else None
    return both_widths(lambda width: figures.importance_of_hidden(scores, keep, width))


def depth(run: Collected) -> Figure | None:
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
    return both_widths(
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


def ranking(run: Collected) -> Figure | None:
    """The candidates in their order."""
    if run.choice is None or not run.choice.candidates:
        return None
    candidates = run.choice.candidates
    return both_widths(lambda width: figures.ranking(candidates, width))


def bump(run: Collected) -> Figure | None:
    """How the order of the candidates changed while they trained."""
    if run.choice is None or run.choice.settled is None:
        return None
    settled, candidates = run.choice.settled, run.choice.candidates
    return both_widths(lambda width: figures.bump(settled, candidates, width))


def pareto(run: Collected) -> Figure | None:
    """The candidates' loss against their size or cost."""
    if run.choice is None or not run.choice.fronts or len(run.choice.candidates) < 2:
        return None
    candidates, fronts = run.choice.candidates, run.choice.fronts
    return both_widths(lambda width: figures.pareto(candidates, fronts, width))


def candidate_curves(run: Collected) -> Figure | None:
    """The held-out loss of the best candidates as they trained."""
    candidates = [candidate for candidate in (run.choice.candidates if run.choice else []) if candidate.curve]
    if len(candidates) < 2:
        return None
    ranked = sorted(candidates, key=lambda candidate: candidate.curve[-1][1])[:_MOST_CURVES]
    lines = [figures.Line("", "plain", candidate.curve) for candidate in ranked if not candidate.chosen]
    lines += [
        figures.Line("chosen", "distilled", candidate.curve) for candidate in candidates if candidate.chosen
    ]
    return both_widths(
        lambda width: figures.line_chart(
            lines,
            width=width,
            label="Held-out loss of each candidate during its short distillation.",
            x_title="steps",
            y_title="held-out loss, nats per token",
        )
    )


def held_out_curves(run: Collected) -> Figure | None:
    """The held-out loss by tokens, distilled and from random weights."""
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
        bridge = figures.Bridge(ours, theirs, loss, words.lead(run) or "")
    return both_widths(
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


def training_curves(run: Collected) -> Figure | None:
    """The training loss by tokens."""
    lines = [
        figures.Line(TITLES[n], n, figures.smooth(c.training)) for n, c in run.curves.items() if c.training
    ]
    if not lines:
        return None
    return both_widths(
        lambda width: figures.line_chart(
            lines,
            width=width,
            label="Training loss against tokens seen; both axes logarithmic.",
            x_title="tokens seen",
            y_title="training loss, nats per token",
        )
    )
