"""Which layers a shape of fewer layers loses, as the recipe's section `depth` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from niwaki.errors import EvaluationError, NiwakiError, RecipeError
from niwaki.evaluation.harness import find_tasks, run_tasks, stated_metrics
from niwaki.pipelines.inputs import Inputs, task_folder
from niwaki.pruning.depth import (
    best_removal,
    measure_on_rows,
    measure_score,
    removals,
    usual_pattern,
)
from niwaki.pruning.depth_record import DepthRecord, Layers
from niwaki.pruning.importance import Importance
from niwaki.recipe.compress import CompressRecipe

RECORD = "depth.json"
_BATCH_ROWS = 4


def layers_to_drop(
    inputs: Inputs, importance: Importance, sizes: Mapping[str, int], *, folder: Path
) -> tuple[int, ...]:
    """The layers that go when the teacher is cut to `sizes`, ascending; none where it keeps all.

    What is measured is kept in `folder / "depth.json"`, which candidates of the same depth share. Collective.

    Raises:
        RecipeError: the named layers are not as many as go.
        EvaluationError: the task is unknown, lacks the metric, or cannot be run.
    """
    depth = inputs.recipe.depth
    num_layers = inputs.teacher_checkpoint.config.num_hidden_layers
    num_dropped = num_layers - sizes.get("layer", num_layers)
    if num_dropped == 0 or depth.drop is not None:
        return tuple(sorted(depth.drop)) if depth.drop is not None else ()
    pattern = usual_pattern(num_dropped) if depth.pattern == "auto" else depth.pattern
    record = DepthRecord.open(
        folder / RECORD,
        measure=depth.measure,
        num_samples=depth.num_samples,
        higher_is_better=depth.task is not None,
    )
    missing = record.missing(removals(num_layers, num_dropped, pattern))
    scored = inputs.recipe.score.measure == "activation"
    if missing and scored and depth.measure == "influence" and pattern == "single":
        # The importance of a layer is its influence already.
        influence = importance["layer"].tolist()
        record.values |= {layers: influence[layers[0]] if layers else 0.0 for layers in missing}
        record.save()
    elif missing:
        _measure(inputs, missing, record)
    return best_removal(record, num_layers, num_dropped, pattern)


def depth_problems(
    recipe: CompressRecipe, num_layers: int, shapes: Sequence[Mapping[str, int]]
) -> Iterator[NiwakiError]:
    """Yield what is wrong with the section, given the teacher's layers and the shapes to be tried."""
    drop, task = recipe.depth.drop, recipe.depth.task
    if task is not None:
        try:
            manager = find_tasks([task], include_path=task_folder(recipe))
            stated = stated_metrics(manager, task)
            metric = recipe.depth.metric
            if metric is not None and stated is not None and metric.partition(",")[0] not in stated:
                yield _no_such_metric(metric, task, stated)
        except NiwakiError as error:
            yield RecipeError(
                f"depth.measure {task!r} is neither loss nor influence, and no lm-eval task: {error.message}",
                error.remedy,
            )
    if drop is None:
        return
    if max(drop) >= num_layers:
        yield RecipeError(
            f"depth.drop names layer {max(drop)}, but the teacher's layers are 0 to {num_layers - 1}.",
            "Number the layers from 0.",
        )
        return
    others = sorted({sizes["layer"] for sizes in shapes} - {num_layers - len(drop)})
    if others:
        kept = num_layers - len(drop)
        yield RecipeError(
            f"depth.drop names {len(drop)} of {num_layers} layers, which leaves {kept}, but there are "
            f"candidates of {', '.join(map(str, others))} layers.",
            f"Give choose.grid with layer: [{kept}], or leave depth.drop out.",
        )


def num_measurements(recipe: CompressRecipe, num_layers: int, shapes: Sequence[Mapping[str, int]]) -> int:
    """How often the rows of `depth` go through most of the teacher, to choose the layers of all `shapes`."""
    depth = recipe.depth
    dropped = {num_layers - sizes.get("layer", num_layers) for sizes in shapes} - {0}
    if not dropped or depth.drop is not None:
        return 0
    patterns = {
        num: usual_pattern(num) if depth.pattern == "auto" else depth.pattern for num in sorted(dropped)
    }
    if depth.measure == "influence":  # of all layers in one pass
        known = recipe.score.measure == "activation" and set(patterns.values()) == {"single"}
        return 0 if known else 1
    return len({layers for num, how in patterns.items() for layers in removals(num_layers, num, how)})


def _measure(inputs: Inputs, missing: list[Layers], record: DepthRecord) -> None:
    depth, model = inputs.recipe.depth, inputs.load_or_stream(inputs.teacher_folder)
    if depth.measure in ("loss", "influence"):
        measure_on_rows(
            model,
            missing,
            inputs.calibration,
            measure="loss" if depth.measure == "loss" else "influence",
            num_rows=depth.num_samples,
            batch_rows=_BATCH_ROWS,
            record=record,
        )
        return

    def score(model: PreTrainedModel) -> float:
        return _task_score(inputs, depth.measure, model)

    measure_score(model, missing, score, name=depth.measure, record=record)


def _task_score(inputs: Inputs, task: str, model: PreTrainedModel) -> float:
    """The metric of the recipe, or the task's first, with the sign that makes higher better."""
    depth = inputs.recipe.depth
    results = run_tasks(
        model,
        inputs.tokenizer,
        [task],
        include_path=task_folder(inputs.recipe),
        limit=depth.num_samples,
    )
    found = results[task]
    metric = depth.metric or next(iter(found.metrics), None)
    if metric not in found.metrics:
        raise _no_such_metric(str(metric), task, found.metrics)
    return found.metrics[metric] if found.higher_is_better[metric] else -found.metrics[metric]


def _no_such_metric(metric: str, task: str, reported: Iterable[str]) -> EvaluationError:
    return EvaluationError(
        f"depth.metric {metric!r}: task {task!r} reports {', '.join(reported) or 'no metric'}.",
        "Name one of these, or leave depth.metric out.",
    )
