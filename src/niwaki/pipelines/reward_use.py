"""Using a reward model on files: scores, rankings, explanations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from niwaki.errors import DataError
from niwaki.pipelines.inputs import device
from niwaki.reward.forms import turns
from niwaki.reward.records import read_rows
from niwaki.reward.scorer import load_scorer


def score_file(model: str, file: Path, *, prompt_gate: bool = False) -> Iterator[dict[str, Any]]:
    """Rows with `prompt` and `response`, `score` added. Raises DataError naming a row that lacks one."""
    rows = _rows(file, ("prompt", "response"))
    scorer = load_scorer(model, device=device())
    prompts = [turns(row["prompt"], name) for name, row in rows]
    scores = scorer.score(prompts, [row["response"] for _, row in rows], prompt_gate=prompt_gate)
    for (_, row), found in zip(rows, scores, strict=True):
        yield row | {"score": float(found)}


def rank_file(
    model: str, file: Path, *, best: int | None = None, prompt_gate: bool = False
) -> Iterator[dict[str, Any]]:
    """Rows with `prompt` and `responses`, these sorted, with `scores`. Raises DataError as `score_file`."""
    rows = _rows(file, ("prompt", "responses"))
    scorer = load_scorer(model, device=device())
    for name, row in rows:
        ranked = scorer.rank(turns(row["prompt"], name), row["responses"], prompt_gate=prompt_gate)[:best]
        yield row | {"responses": [row["responses"][i] for i, _ in ranked], "scores": [s for _, s in ranked]}


def explain_file(model: str, file: Path) -> Iterator[dict[str, Any]]:
    """Rows with `prompt`, `response` and perhaps `other`; `explanations`, and the `difference` by objective.

    Raises:
        DataError: names a row that lacks a column.
        CheckpointError: the model has no objectives.
    """
    rows = _rows(file, ("prompt", "response"))
    scorer = load_scorer(model, device=device())
    for name, row in rows:
        answers = [row["response"], *([row["other"]] if row.get("other") else [])]
        found = scorer.explain([turns(row["prompt"], name)] * len(answers), answers)
        explained = row | {"explanations": [e.as_dict() for e in found]}
        if len(found) == 2:
            parts = found[0].parts - found[1].parts
            explained["difference"] = {
                "score": found[0].score - found[1].score,
                "parts": dict(zip(found[0].names, parts.tolist(), strict=True)),
            }
        yield explained


def show_explanation(row: dict[str, Any]) -> None:
    """Print one explained row as a table."""
    console = Console(highlight=False)
    first = row["explanations"][0]
    others = row["explanations"][1:]
    table = Table(title=f"\n{str(row['prompt'])[:70]!r}", title_justify="left")
    table.add_column("objective")
    for heading in (
        "gate",
        "predicted",
        "part",
        *(["other predicted", "other part", "A - B"] if others else []),
    ):
        table.add_column(heading, justify="right")
    order = sorted(range(len(first["objectives"])), key=lambda i: -abs(_weight(row, i)))
    for i in order:
        objective = first["objectives"][i]
        cells = [f"{objective['gate']:.3f}", f"{objective['reward']:.2f}", f"{objective['part']:+.3f}"]
        if others:
            other = others[0]["objectives"][i]
            cells += [
                f"{other['reward']:.2f}",
                f"{other['part']:+.3f}",
                f"{objective['part'] - other['part']:+.3f}",
            ]
        table.add_row(objective["name"], *cells)
    console.print(table)
    line = f"score {first['score']:.3f} ± {first['spread']:.3f}"
    if others:
        line += f", other {others[0]['score']:.3f} ± {others[0]['spread']:.3f}"
        better = "the response" if row["difference"]["score"] > 0 else "the other"
        carried = max(
            row["difference"]["parts"].items(), key=lambda part: part[1] * row["difference"]["score"]
        )
        line += f"\n{better} is ahead by {abs(row['difference']['score']):.3f}, most of it from {carried[0]}"
    console.print(line)


def _weight(row: dict[str, Any], i: int) -> float:
    parts = [e["objectives"][i]["part"] for e in row["explanations"]]
    return float(parts[0] - parts[1]) if len(parts) == 2 else float(parts[0])


def _rows(file: Path, needed: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    rows = list(read_rows(str(file)))
    for name, row in rows:
        for column in needed:
            if not row.get(column):
                raise DataError(
                    f"{name}: lacks {column!r} (has {', '.join(row)}).", "See `niwaki reward --help`."
                )
    if not rows:
        raise DataError(f"{file}: is empty.", "Write one JSON object a line.")
    return rows
