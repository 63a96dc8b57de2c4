"""The before/after table: one row per measurement, one column per model; the page and the card share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from niwaki.reporting.facts import MODELS, Interval, Result
from niwaki.reporting.words import loss, megabytes, quantity, significant, times

TITLES = {
    "teacher": "Teacher",
    "parent": "Parent",
    "corrected": "Corrected",
    "trimmed": "Trimmed",
    "distilled": "Distilled",
    "random": "Random weights",
}
# lm-eval's metrics that are shares of the questions
SHARES = {
    "acc": "accuracy",
    "acc_norm": "accuracy, by length",
    "exact_match": "exact match",
}


@dataclass(frozen=True)
class Cell:
    """A value in words, and a smaller remark below it (an interval, a ratio to the teacher)."""

    text: str
    remark: str = ""


@dataclass(frozen=True)
class Row:
    """One measurement of every model."""

    label: str
    unit: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """Columns are names of models, in the order of `MODELS`."""

    columns: list[str]
    rows: list[Row]


MISSING = Cell("–")


def comparison(results: dict[str, Result]) -> Table:
    """Lay the results side by side; a measurement that no model has gives no row."""
    columns = [name for name in MODELS if name in results]
    models = [results[name] for name in columns]
    teacher = results.get("teacher")

    def row(label: str, unit: str, cell: Callable[[Result], Cell | None]) -> Row:
        return Row(label, unit, [cell(model) or MISSING for model in models])

    def against_teacher(
        get: Callable[[Result], float | None], text: Callable[[float], str]
    ) -> Callable[[Result], Cell | None]:
        reference = get(teacher) if teacher else None

        def cell(model: Result) -> Cell | None:
            value = get(model)
            if value is None:
                return None
            remark = times(value / reference) if reference and model is not teacher else ""
            return Cell(text(value), remark)

        return cell

    rows = [
        row("Parameters", "", against_teacher(lambda m: m.num_parameters, quantity)),
        row("Held-out loss", "nats per token", lambda m: _interval_cell(m.held_out_loss)),
        row("Bits per byte", "", lambda m: _plain(m.bits_per_byte, loss)),
        row("Perplexity", "", lambda m: _plain(m.perplexity, significant)),
        row("KL to teacher", "nats per token", lambda m: _interval_cell(m.kl_to_teacher)),
        *(row(*_task_words(task, metric), _score(task, metric)) for task, metric in _scores(models)),
        row("Prefill", "tokens per second", against_teacher(lambda m: m.prefill_tokens_per_s, significant)),
        row("Decode", "tokens per second", against_teacher(lambda m: m.decode_tokens_per_s, significant)),
        row("Weights in memory", "", against_teacher(lambda m: m.weights_bytes, megabytes)),
        row("Size on disk", "", against_teacher(lambda m: m.disk_bytes, megabytes)),
        row(
            "Key-value cache", "bytes per token", against_teacher(lambda m: m.kv_bytes_per_token, significant)
        ),
    ]
    return Table(columns, [row for row in rows if any(cell is not MISSING for cell in row.cells)])


def _interval_cell(interval: Interval | None) -> Cell | None:
    if interval is None:
        return None
    return Cell(loss(interval.mean), f"{loss(interval.low)}–{loss(interval.high)}")


def _plain(value: float | None, text: Callable[[float], str]) -> Cell | None:
    return None if value is None else Cell(text(value))


def _score(task: str, metric: str) -> Callable[[Result], Cell | None]:
    scale, decimals = (100, 1) if metric in SHARES else (1, 3)

    def cell(model: Result) -> Cell | None:
        if metric not in model.tasks.get(task, {}):
            return None
        value, stderr = model.tasks[task][metric]
        remark = "" if stderr is None else f"± {scale * stderr:.{decimals}f}"
        return Cell(f"{scale * value:.{decimals}f}", remark)

    return cell


def _scores(models: list[Result]) -> list[tuple[str, str]]:
    found = [(task, metric) for model in models for task, scores in model.tasks.items() for metric in scores]
    return list(dict.fromkeys(found))


def _task_words(task: str, metric: str) -> tuple[str, str]:
    title = task.replace("_", "-")
    unit = "%, ± standard error" if metric in SHARES else "± standard error"
    return f"{title[:1].upper()}{title[1:]} {SHARES.get(metric, metric)}", unit
