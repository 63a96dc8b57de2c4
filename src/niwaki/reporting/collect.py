"""A compress run's directory in, its facts out. A stage that has not run is `None` or empty."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from niwaki.errors import RunError
from niwaki.reporting.facts import (
    MODELS,
    Candidate,
    Choice,
    Collected,
    Curve,
    Depth,
    Front,
    Importance,
    Interval,
    Result,
    Sample,
    Settled,
    Trim,
)
from niwaki.reporting.run_files import open_run, read_json, recipe_text

STAGES = ("1-score", "2-choose", "3-trim", "4-distill", "5-evaluate")


def collect(run_dir: str | Path) -> Collected:
    """Read what the stages of a run have written so far.

    Raises:
        RunError: `run_dir` is not a run directory, or one of its files is damaged.
    """
    run = open_run(run_dir, *STAGES)
    evaluation = read_json(run / "5-evaluate" / "results.json", _evaluation)
    results, samples = evaluation if evaluation is not None else ({}, [])
    curves = {
        "distilled": _curve(run / "4-distill" / "metrics.jsonl"),
        "random": _curve(run / "5-evaluate" / "random" / "metrics.jsonl"),
    }
    return Collected(
        run_dir=run,
        recipe=recipe_text(run),
        manifest=read_json(run / "manifest.json", dict) or {},
        importance=read_json(run / "1-score" / "importance.json", _importance),
        choice=read_json(run / "2-choose" / "candidates.json", _choice),
        depth=read_json(run / "2-choose" / "depth.json", _depth),
        trim=read_json(run / "3-trim" / "model" / "trim.json", _trim),
        curves={name: curve for name, curve in curves.items() if curve is not None},
        results=results,
        samples=samples,
        finished={
            "1-score": (run / "1-score" / "importance.json").exists(),
            "2-choose": (run / "2-choose" / "candidates.json").exists(),
            "3-trim": (run / "3-trim" / "model" / "trim.json").exists(),
            "4-distill": (run / "4-distill" / "model" / "config.json").exists(),
            "5-evaluate": evaluation is not None,
        },
    )


def _importance(raw: dict[str, Any]) -> Importance:
    return Importance(
        layer=raw.get("layer") or [],
        ffn=raw.get("ffn") or [],
        group=raw.get("group") or [],
        hidden=raw.get("hidden") or [],
        measure=raw.get("measure") or "activation",
        num_samples=raw.get("num_samples"),
        sequence_length_tokens=raw.get("sequence_length_tokens"),
    )


def _choice(raw: dict[str, Any]) -> Choice:
    return Choice(
        budget=dict(raw.get("budget") or {}),
        teacher_sizes=dict(raw["teacher"]["sizes"]),
        teacher_num_parameters=int(raw["teacher"]["num_parameters"]),
        candidates=[
            Candidate(
                sizes=dict(candidate["sizes"]),
                num_parameters=int(candidate["num_parameters"]),
                loss_before=_finite(candidate.get("loss_before")),
                loss_after=_finite(candidate.get("loss_after")),
                curve=_finite_points(candidate.get("curve") or []),
                chosen=bool(candidate.get("chosen")),
                stopped=candidate.get("stopped"),
                kv_cache_bytes=_finite(candidate.get("kv_cache_bytes")),
                latency_s=_finite(candidate.get("latency_s")),
            )
            for candidate in raw["candidates"]
        ],
        settled=_settled(raw.get("settled")),
        trained_tokens=(raw.get("trial_tokens") or {}).get("trained"),
        saved_tokens=(raw.get("trial_tokens") or {}).get("saved"),
        fronts={
            objective: Front(front=list(found["front"]), knee=found["knee"])
            for objective, found in (raw.get("pareto") or {}).items()
        },
    )


def _settled(raw: Mapping[str, Any] | None) -> Settled | None:
    if raw is None:
        return None
    return Settled(
        steps=list(raw["steps"]),
        ranks=[list(ranks) for ranks in raw["ranks"]],
        winner_step=raw["winner_step"],
        order_step=raw["order_step"],
    )


def _depth(raw: dict[str, Any]) -> Depth:
    values = {tuple(each["layers"]): float(each["value"]) for each in raw["removed"]}
    return Depth(measure=str(raw["measure"]), values=values)


def _trim(raw: dict[str, Any]) -> Trim:
    return Trim(
        keep=dict(raw["keep"]),
        dropped_layers=list(raw.get("dropped_layers") or []),
        sizes_from=dict(raw["parent_sizes"]),
        sizes_to=dict(raw["sizes"]),
        num_parameters_from=int(raw["num_parent_parameters"]),
        num_parameters_to=int(raw["num_parameters"]),
    )


def _evaluation(raw: dict[str, Any]) -> tuple[dict[str, Result], list[Sample]]:
    models = raw.get("models") or {}
    results = {name: _result(models[name]) for name in MODELS if models.get(name)}
    samples = []
    for sample in raw.get("samples") or []:
        prompt = str(sample["prompt"])
        texts = {
            name: str(sample[name]).removeprefix(prompt) for name in MODELS if sample.get(name) is not None
        }
        samples.append(Sample(prompt=prompt, continuations=texts))
    return results, samples


def _result(raw: dict[str, Any]) -> Result:
    speed = raw.get("speed") or {}
    return Result(
        num_parameters=raw.get("num_parameters"),
        held_out_loss=_interval(raw.get("held_out_loss")),
        curve_loss=_finite(raw.get("curve_loss")),
        bits_per_byte=_finite(raw.get("bits_per_byte")),
        perplexity=_finite(raw.get("perplexity")),
        kl_to_teacher=_interval(raw.get("kl_to_teacher")),
        tasks={task: _metrics(scores) for task, scores in (raw.get("tasks") or {}).items()},
        prefill_tokens_per_s=_finite(speed.get("prefill_tokens_per_s")),
        decode_tokens_per_s=_finite(speed.get("decode_tokens_per_s")),
        weights_bytes=speed.get("weights_bytes"),
        kv_bytes_per_token=_finite(speed.get("kv_bytes_per_token")),
        disk_bytes=raw.get("disk_bytes"),
    )


def _metrics(scores: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    names = [
        name
        for name, value in scores.items()
        if isinstance(value, int | float) and name != "num_questions" and not name.endswith("_stderr")
    ]
    return {name: (scores[name], _finite(scores.get(f"{name}_stderr"))) for name in names}


def _interval(raw: Mapping[str, float] | None) -> Interval | None:
    if raw is None or not math.isfinite(raw["mean"]):
        return None
    return Interval(mean=float(raw["mean"]), low=float(raw["low"]), high=float(raw["high"]))


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _finite_points(points: list[Any]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if y is not None and math.isfinite(y)]


def _curve(path: Path) -> Curve | None:
    """Read metrics.jsonl. The held-out loss is the cross-entropy on the text, whatever the run minimised."""
    if not path.exists():
        return None
    rows = _metric_rows(path)

    def points(*names: str) -> list[tuple[float, float]]:
        found = [(row["tokens"], next((row[name] for name in names if name in row), None)) for row in rows]
        return _finite_points(found)

    return Curve(training=points("loss"), held_out=points("held_out_cross_entropy", "held_out_loss"))


def _metric_rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # a killed run leaves half a line behind
                break
            raise RunError(
                f"{path}, line {number} is not JSON: {line[:80]!r}.", "Remove the line to report without it."
            ) from error
        rows.append(row)
    return rows
