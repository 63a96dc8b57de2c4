"""Numbers as people read them, and the run in one sentence."""

from __future__ import annotations

from niwaki.reporting.facts import Collected

NARROW_SPACE = "\u202f"


def quantity(value: float) -> str:
    """Three significant figures and a unit: 5.46 M, 81.9 k, 512."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995 and (unit != "k" or value >= 1e4):
            return f"{significant(value / size)}{NARROW_SPACE}{unit}"
    return f"{value:,.0f}"


def short(value: float) -> str:
    """A round number as an axis shows it: 50 k, 2 M, 0.5."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{NARROW_SPACE}{unit}"
    return f"{value:g}"


def significant(value: float) -> str:
    """Three significant figures, trailing zeros after the point kept: 5.46, 81.9, 512, 12,400."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.2g}"
    decimals = 3 if abs(value) < 0.1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{decimals}f}"


def loss(value: float) -> str:
    """Nats per token, to the third decimal."""
    return f"{value:.3f}"


def megabytes(num_bytes: float) -> str:
    """Bytes as decimal megabytes or gigabytes."""
    if num_bytes >= 1e9:
        return f"{significant(num_bytes / 1e9)}{NARROW_SPACE}GB"
    return f"{significant(num_bytes / 1e6)}{NARROW_SPACE}MB"


def times(ratio: float) -> str:
    """A ratio: 1.8×, 0.49×."""
    return f"{significant(ratio)}×" if ratio < 1 else f"{ratio:.1f}×" if ratio < 9.95 else f"{ratio:,.0f}×"


def shape(sizes: dict[str, int]) -> str:
    """A shape in one line: 6 layers · hidden 192 · ffn 512 · 8 heads (4 kv)."""
    parts = []
    if "layer" in sizes:
        parts.append(f"{sizes['layer']} layers")
    parts += [f"{axis} {sizes[axis]:,}" for axis in ("hidden", "ffn", "effn") if axis in sizes]
    if "expert" in sizes:
        parts.append(f"{sizes['expert']} experts")
    if "kv" in sizes and "group" in sizes:
        parts.append(f"{sizes['kv'] * sizes['group']} heads ({sizes['kv']} kv)")
    return " · ".join(parts)


def shape_in_short(sizes: dict[str, int]) -> str:
    """A shape in a few characters: 6 × 192 × 512, which are layers, hidden and ffn; other heads are added."""
    inner = next((sizes[axis] for axis in ("ffn", "effn") if axis in sizes), None)
    parts = [sizes.get("layer"), sizes.get("hidden"), inner]
    return " × ".join(str(part) for part in parts if part is not None)


def milliseconds(duration_s: float) -> str:
    """A latency in milliseconds."""
    return f"{significant(duration_s * 1000)}{NARROW_SPACE}ms"


def settled(run: Collected) -> str | None:
    """When the ranking of the candidates settled, or that it never did."""
    found = run.choice.settled if run.choice else None
    if found is None:
        return None
    last = found.steps[-1]
    if found.winner_step is None:
        return (
            f"The first place still changed at the end of the trials, step {last}: the ranking never settled."
        )
    winner = f"The chosen shape was first from step {found.winner_step} of {last} on"
    if found.order_step is None:
        return f"{winner}; the order of the others never settled within the trial."
    return f"{winner}, and the whole order stood from step {found.order_step} on."


def halved(run: Collected) -> str | None:
    """What stopping candidates early saved, where any was."""
    choice = run.choice
    if choice is None or not choice.saved_tokens or not choice.trained_tokens:
        return None
    return (
        f"The worse half stopped early, drawn as rings: {quantity(choice.trained_tokens)} tokens of trials "
        f"instead of {quantity(choice.trained_tokens + choice.saved_tokens)}."
    )


def headline(run: Collected) -> str:
    """The outcome so far, in one sentence with its numbers."""
    parts = [_size_clause(run)]
    teacher, student = run.results.get("teacher"), run.results.get("distilled")
    if teacher and student:
        if student.held_out_loss and teacher.held_out_loss:
            ours, theirs = student.held_out_loss.mean, teacher.held_out_loss.mean
            parts.append(f"held-out loss {ours:.2f} against the teacher’s {theirs:.2f}")
        if student.decode_tokens_per_s and teacher.decode_tokens_per_s:
            ratio = student.decode_tokens_per_s / teacher.decode_tokens_per_s
            parts.append(
                f"decoding at {times(ratio)} the speed" if ratio < 1.05 else f"{times(ratio)} faster decoding"
            )
    elif run.finished["4-distill"]:
        parts.append("distilled, not yet evaluated")
    elif "distilled" in run.curves:
        parts.append("distillation is under way")
    elif run.trim:
        parts.append("not yet distilled")
    return "; ".join(parts) + "."


def _size_clause(run: Collected) -> str:
    if run.trim:
        kept, whole = run.trim.num_parameters_to, run.trim.num_parameters_from
        return f"{quantity(kept)} of {quantity(whole)} parameters kept"
    if run.choice and run.choice.chosen:
        kept, whole = run.choice.chosen.num_parameters, run.choice.teacher_num_parameters
        return (
            f"A shape of {quantity(kept)} of {quantity(whole)} parameters is chosen, nothing is trimmed yet"
        )
    if run.choice:
        return f"{len(run.choice.candidates)} shapes are listed, none is chosen yet"
    if run.importance:
        return "The teacher is scored, no shape is chosen yet"
    return "No stage has finished yet"


def catch_up(run: Collected) -> tuple[float, float, float] | None:
    """Where distillation passed the final held-out loss of the baseline from random weights.

    Returns:
        (tokens the student needed, tokens the baseline needed, that loss); `None` where the held-out losses
        of the two runs do not show it. The student's tokens are those of the first measurement at or below
        that loss, 0 if it began there, so the ratio of the two is an underestimate.
    """
    student, baseline = run.curves.get("distilled"), run.curves.get("random")
    finished = "random" in run.results
    if student is None or baseline is None or not baseline.held_out or not finished:
        return None
    baseline_tokens, final_loss = max(baseline.held_out)
    reached = [tokens for tokens, value in student.held_out if value <= final_loss]
    if not reached or min(reached) > baseline_tokens:
        return None
    return min(reached), baseline_tokens, final_loss


def lead(run: Collected) -> str | None:
    """How many fewer tokens the student needed; `None` where `catch_up` does not show it."""
    caught = catch_up(run)
    return f"{times(caught[1] / caught[0])} fewer tokens" if caught and caught[0] else None
