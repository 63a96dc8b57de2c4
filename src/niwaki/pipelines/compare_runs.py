"""Finished runs side by side: how their models differ on the same rows and questions, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from niwaki.errors import EvaluationError, RunError
from niwaki.evaluation.paired import PAIRED, Measure, Paired, difference, load_paired
from niwaki.ground.stats import Interval

_EVALUATE = "5-evaluate"
# Fewer rows than this say little, whatever the bootstrap says.
FEWEST_UNITS = 10


@dataclass(frozen=True)
class _Entry:
    run: str
    model: str
    paired: Paired


def compare_runs(
    runs: Sequence[Path], *, model: str | None = None, confidence: float = 0.95
) -> dict[str, Any]:
    """The models of `runs` against the first, unit by unit.

    Of several runs, the model that each made, or `model`; of one run, all its models against the one it began
    with. A family stands for its members. Intervals are over rows or questions: they say nothing about what
    another seed of the training would give.

    Returns:
        {"baseline": {"run", "model"}, "confidence", "measures": [{"measure", "unit", "higher_is_better",
        "num_units", "models": [{"run", "model", "mean": interval, "difference": interval or None, "verdict":
        "better", "worse", "open" or None}]}], "left_out": [{"measure", "run", "why"}]}.

    Raises:
        RunError: a directory without `5-evaluate/paired.json`, or an unknown model.
        EvaluationError: there is nothing that all share with the first.
    """
    entries = _entries(runs, model)
    base = entries[0]
    measures, left_out = [], []
    for name, measure in base.paired.measures.items():
        rows = [_row(base, measure, measure, base, confidence)]
        for entry in entries[1:]:
            found = entry.paired.measures.get(name)
            if found is None or entry.model not in found.values:
                left_out.append({"measure": name, "run": entry.run, "why": "not measured"})
                continue
            try:
                rows.append(_row(entry, found, measure, base, confidence))
            except EvaluationError as error:
                left_out.append({"measure": name, "run": entry.run, "why": error.message})
        if len(rows) > 1:
            measures.append(
                {
                    "measure": name,
                    "unit": measure.unit,
                    "higher_is_better": measure.higher_is_better,
                    "num_units": len(measure.values[base.model]),
                    "models": rows,
                }
            )
    if not measures:
        why = "; ".join(f"{each['run']}, {each['measure']}: {each['why']}" for each in left_out)
        raise EvaluationError(
            f"There is nothing to compare with {base.run} ({base.model}). {why}",
            "Give runs with the same data, row length, tokenizer and `evaluate` section.",
        )
    return {
        "baseline": {"run": base.run, "model": base.model},
        "confidence": confidence,
        "measures": measures,
        "left_out": left_out,
    }


def show(compared: Mapping[str, Any]) -> None:
    """Print what `compare_runs` found, a table for each measure."""
    console = Console(highlight=False)
    percent = f"{compared['confidence']:.0%}".replace("%", " %")
    for measure in compared["measures"]:
        better = "higher" if measure["higher_is_better"] else "lower"
        title = f"\n{measure['measure']}, {measure['unit']}; {measure['num_units']} pairs; {better} is better"
        table = Table(title=title, title_justify="left", box=None)
        for name in ("run", "model"):
            table.add_column(name, overflow="fold")
        for name in ("mean", "difference", f"{percent} interval"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for row in measure["models"]:
            gap = row["difference"]
            cells = (
                ["", ""]
                if gap is None
                else [f"{gap['mean']:+.4f}", f"{gap['low']:+.4f} to {gap['high']:+.4f}"]
            )
            style = {"better": "green", "worse": "red"}.get(row["verdict"] or "", "")
            table.add_row(
                row["run"],
                row["model"],
                f"{row['mean']['mean']:.4f}",
                *cells,
                Text(row["verdict"] or "", style),
            )
        console.print(table)
        if measure["num_units"] < FEWEST_UNITS:
            console.print(f"Only {measure['num_units']} pairs: take these intervals with care.")
    for each in compared["left_out"]:
        console.print(f"Left out: {each['measure']} of {each['run']}: {each['why']}", soft_wrap=True)
    console.print(
        f"Paired with {compared['baseline']['run']} ({compared['baseline']['model']}). “Open”: the interval "
        "holds 0. Intervals are over rows or questions, not over seeds.",
        soft_wrap=True,
    )


def _row(
    entry: _Entry, measure: Measure, base_measure: Measure, base: _Entry, confidence: float
) -> dict[str, Any]:
    gap = None
    if entry is not base:
        gap = difference(measure, entry.model, base_measure, base.model, confidence=confidence)
    return {
        "run": entry.run,
        "model": entry.model,
        "mean": asdict(measure.mean(entry.model, confidence=confidence)),
        "difference": None if gap is None else asdict(gap),
        "verdict": None if gap is None else _verdict(gap, base_measure.higher_is_better),
    }


def _verdict(gap: Interval, higher_is_better: bool) -> str:
    if gap.low <= 0 <= gap.high:
        return "open"
    return "better" if (gap.low > 0) == higher_is_better else "worse"


def _entries(runs: Sequence[Path], model: str | None) -> list[_Entry]:
    found = [each for run in runs for each in _evaluated(run)]
    if len(found) == 1 and model is None:
        run, paired = found[0]
        names = {name for measure in paired.measures.values() for name in measure.values}
        others = sorted(names - {paired.baseline}, key=_order(paired))
        return [_Entry(str(run), name, paired) for name in (paired.baseline, *others)]
    entries = []
    for run, paired in found:
        name = model or paired.product
        known = sorted({each for measure in paired.measures.values() for each in measure.values})
        if name not in known:
            raise RunError(f"{run}: it measured no model {name!r}.", f"Known there: {', '.join(known)}.")
        entries.append(_Entry(str(run), name, paired))
    return entries


def _order(paired: Paired) -> Any:
    measured = list(next(iter(paired.measures.values())).values)
    return lambda name: measured.index(name) if name in measured else len(measured)


def _evaluated(run: Path) -> list[tuple[Path, Paired]]:
    """The run, or the members of the family, with what each measured."""
    folders = [run] if (run / _EVALUATE / PAIRED).is_file() else []
    folders = folders or [path.parents[1] for path in sorted(run.glob(f"*/{_EVALUATE}/{PAIRED}"))]
    if not folders:
        raise RunError(
            f"{run}: there is no {_EVALUATE}/{PAIRED}, so nothing was measured here unit by unit.",
            "Give directories of runs that are evaluated. One of an older niwaki: move its "
            f"{_EVALUATE} away and give its recipe to `niwaki run` again.",
        )
    return [(folder, load_paired(folder / _EVALUATE / PAIRED)) for folder in folders]
