"""The page of a family: one row per model, what each cost, and the loss against the size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from niwaki.errors import RunError
from niwaki.ground.run import write_atomically
from niwaki.reporting import words
from niwaki.reporting.facts import Interval
from niwaki.reporting.figures.sizes import SizedModel, loss_by_size
from niwaki.reporting.page import both_widths, render
from niwaki.reporting.run_files import read_json, recipe_text
from niwaki.reporting.table import MISSING, SHARES, Cell

FAMILY = "family.json"


def write_family_report(family_dir: str | Path) -> Path:
    """Write `report.html` into a family's directory from its `family.json`, and return the path.

    Raises:
        RunError: there is no `family.json` yet, or it is damaged.
    """
    folder = Path(family_dir)
    record = folder / FAMILY
    if not record.exists():
        raise RunError(
            f"{folder} holds no {FAMILY}: the family is not finished.",
            "Give the recipe to `niwaki run` again; each member has a report of its own before that.",
        )
    facts = read_json(record, lambda family: family_facts(family, name=folder.resolve().name)) or {}
    facts["recipe"] = recipe_text(folder)
    out = folder / "report.html"
    write_atomically(out, render("family.html.j2", facts))
    return out


def family_facts(family: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Everything the page shows, from the content of `family.json`."""
    teacher, members = family["teacher"], family["members"]
    models = [_sized(model) for model in (teacher, *members)]
    smallest = members[-1]
    losses = [model["held_out_loss"]["mean"] for model in (smallest, teacher)]
    ratio = teacher["num_parameters"] / smallest["num_parameters"]
    headline = (
        f"{len(members)} smaller models out of {words.quantity(teacher['num_parameters'])} parameters, "
        f"down to one {words.times(ratio)} smaller; its held-out loss is "
        f"{losses[0]:.2f} against the teacher’s {losses[1]:.2f}."
    )
    return {
        "name": name,
        "headline": headline,
        "saving": _saving(family),
        "columns": _columns(teacher, members),
        "rows": [_row(model, teacher, family) for model in (teacher, *members)],
        "picture": both_widths(lambda width: loss_by_size(models, width)),
        "has_random": any(model.random_loss for model in models),
        "members": members,
        "costs": [_costs(member) for member in members],
    }


def _saving(family: Mapping[str, Any]) -> str | None:
    if family["saving"] is None:
        return None
    return (
        f"Together they took {family['flops']:.2e} FLOPs. With the teacher, the family is "
        f"{family['saving']:.2f} times cheaper than training each of its models from scratch on "
        f"{words.quantity(family['scratch_tokens'])} tokens, the number that the recipe states."
    )


def _columns(teacher: Mapping[str, Any], members: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Heading and unit of every column after the name."""
    columns = [("Parameters", ""), ("Held-out loss", "nats per token")]
    columns += [
        (f"{task} {SHARES.get(metric, metric)}", "%" if metric in SHARES else "")
        for task, metric in _scores(teacher)
    ]
    if teacher["speed"] is not None:
        columns.append(("Decode", "tokens per second"))
    columns += [("Tokens", "distilled on"), ("FLOPs", "to make it")]
    if members[0]["share_of_scratch"] is not None:
        columns.append(("Cost", "of training from scratch"))
    return columns


def _row(model: Mapping[str, Any], teacher: Mapping[str, Any], family: Mapping[str, Any]) -> dict[str, Any]:
    is_member = model is not teacher
    loss = model["held_out_loss"]
    cells = [
        Cell(words.quantity(model["num_parameters"]), _ratio(model, teacher, lambda m: m["num_parameters"])),
        Cell(words.loss(loss["mean"]), f"{words.loss(loss['low'])}–{words.loss(loss['high'])}"),
    ]
    for task, metric in _scores(teacher):
        cells.append(_score(model["tasks"].get(task, {}), metric))
    if teacher["speed"] is not None:
        speed = model["speed"]["decode_tokens_per_s"]
        ratio = words.times(model["speed"]["decode_ratio"]["median"]) if is_member else ""
        cells.append(Cell(words.significant(speed), ratio))
    cells.append(Cell(words.quantity(model["tokens"])) if is_member else MISSING)
    cells.append(Cell(f"{model['flops']['total']:.2e}") if is_member else MISSING)
    if family["scratch_tokens"] is not None:
        cells.append(Cell(f"{model['share_of_scratch']:.2%}") if is_member else MISSING)
    return {
        "name": model["name"],
        "link": f"{model['name']}/report.html" if is_member else None,
        "cells": cells,
    }


def _ratio(model: Mapping[str, Any], teacher: Mapping[str, Any], get: Any) -> str:
    return "" if model is teacher else words.times(get(model) / get(teacher))


def _scores(teacher: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One (task, metric) for each task: its accuracy, or the first metric of one that has none."""
    found = []
    for task, metrics in sorted(teacher["tasks"].items()):
        names = [name for name, value in metrics.items() if isinstance(value, float)]
        found += [(task, next((name for name in names if name == "acc"), names[0]))] if names else []
    return found


def _score(metrics: Mapping[str, Any], metric: str) -> Cell:
    if metric not in metrics:
        return MISSING
    scale, decimals = (100, 1) if metric in SHARES else (1, 3)
    error = metrics.get(f"{metric}_stderr")
    return Cell(
        f"{scale * metrics[metric]:.{decimals}f}", "" if error is None else f"± {scale * error:.{decimals}f}"
    )


def _costs(member: Mapping[str, Any]) -> dict[str, str]:
    """What a member's FLOPs went into, in words."""
    flops = member["flops"]
    return {name: f"{flops[name] / flops['total']:.0%}" for name in ("score", "cache", "choose", "distill")}


def _sized(model: Mapping[str, Any]) -> SizedModel:
    random = model.get("random_loss")
    return SizedModel(
        name=model["name"],
        num_parameters=int(model["num_parameters"]),
        held_out_loss=Interval(**model["held_out_loss"]),
        random_loss=None if random is None else Interval(**random),
    )
