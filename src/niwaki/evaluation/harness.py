"""Downstream tasks, run through lm-eval by name: its hub tasks, and local task folders offline.

In: a model and its tokenizer. Out: one `TaskResult` for each task, with the task's version and a hash of
every question asked, so that two results are known to be comparable.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import io
import logging
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from niwaki.errors import EvaluationError
from niwaki.evaluation.mode import evaluating
from niwaki.ground.spread import running

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

# Tasks that draw examples or shuffle choices do so from here; lm-eval's own default.
_SEED = 1234
# lm-eval bootstraps only the metrics whose standard error has no formula.
_BOOTSTRAP_RESAMPLES = 200


@dataclass(frozen=True)
class TaskResult:
    """What a model reached on one task (or group of tasks).

    `metrics` and `stderr` map a metric's name to its value and standard error (None where lm-eval has none);
    `higher_is_better` says which way a metric goes. `scores` maps a metric to its value for each question in
    order, for paired comparisons, and is empty for a group. Equal `hash` means the same questions.
    """

    metrics: dict[str, float]
    stderr: dict[str, float | None]
    higher_is_better: dict[str, bool]
    scores: dict[str, list[float]]
    num_questions: int
    version: str
    hash: str


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, TaskResult]:
    """Evaluate `model` on lm-eval `tasks`; the same call gives the same numbers.

    Collective: several processes share out the questions, and all get the same result: that of one process,
    up to rounding. Only tasks that draw their answers (`do_sample`) draw others.

    Args:
        model: a causal language model, on the device where it shall run.
        tokenizer: left as it is; lm-eval gets a copy.
        tasks: names as lm-eval lists them, or of tasks under `include_path`.
        include_path: folder of further task YAML files. If all `tasks` are there, nothing else is searched.
        limit: ask only the first `limit` questions of each task.
        batch_size: sequences in one forward pass (unused where choices share a context on a CPU).

    Raises:
        EvaluationError: lm-eval is missing, a task is unknown, its data cannot be loaded, or the tokenizer
            has neither a beginning-of-text nor an end-of-text token.
    """
    try:
        from niwaki.evaluation.shared_prefix import SharedPrefixLM
    except ImportError as error:
        raise _not_installed(tasks, error) from error
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise EvaluationError(
            "the tokenizer has neither a beginning-of-text nor an end-of-text token.", "Set its `eos_token`."
        )
    with _quiet(), _private_random_state(), evaluating(model), running(model):
        manager = find_tasks(tasks, include_path)
        lm = SharedPrefixLM(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            batch_size=batch_size,
            softmax_dtype=torch.float32,
        )
        try:
            raw = _evaluate(lm, manager, tasks, limit)
        except OSError as error:
            raise EvaluationError(
                f"tasks {', '.join(tasks)}: the data cannot be loaded ({type(error).__name__}: {error}).",
                "Check the network, or choose tasks whose data is on this machine.",
            ) from error
    return {task: _result(task, raw) for task in raw["results"]}


def find_tasks(tasks: Sequence[str], include_path: Path | None) -> TaskManager:
    """An index with all of `tasks`: of the local folder alone when that suffices, for all takes seconds.

    Raises EvaluationError for a task that is nowhere, with the nearest names.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise _not_installed(tasks, error) from error
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise EvaluationError(
                f"task folder {str(include_path)!r} is not a folder.", "Give an existing folder."
            )
        local = TaskManager(include_path=str(include_path), include_defaults=False)
        if set(tasks) <= set(local.all_tasks):
            return local
    manager = TaskManager(include_path=str(include_path) if include_path is not None else None)
    for task in tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=3)
            raise EvaluationError(
                f"task {task!r} is unknown to lm-eval{'' if near else ', and no name is near it'}.",
                f"Did you mean {', '.join(near)}?" if near else "List all names with: lm-eval ls tasks",
            )
    return manager


def stated_metrics(manager: TaskManager, task: str) -> tuple[str, ...] | None:
    """The metrics that a task's YAML lists, loading no data; None where it leaves that to code or a group.

    With filters, `TaskResult.metrics` has them as "metric,filter".
    """
    content: dict[str, Any] = manager.task_index[task].cfg or {}
    stated = content.get("metric_list")
    return None if stated is None else tuple(str(entry["metric"]) for entry in stated)


def _not_installed(tasks: Sequence[str], error: ImportError) -> EvaluationError:
    return EvaluationError(
        f"tasks {', '.join(tasks)}: lm-eval is not installed ({error}).", "Run: pip install 'niwaki[eval]'"
    )


def _evaluate(lm: LM, manager: TaskManager, tasks: Sequence[str], limit: int | None) -> dict[str, Any]:
    """lm-eval's `simple_evaluate` without its look-ups: it runs git and asks the hub about the model."""
    from lm_eval.evaluator import evaluate

    loaded = manager.load(list(tasks))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    return evaluate(lm, loaded, limit=limit, bootstrap_iters=_BOOTSTRAP_RESAMPLES)


def _result(task: str, raw: dict[str, Any]) -> TaskResult:
    metrics: dict[str, float] = {}
    stderr: dict[str, float | None] = {}
    for key, value in raw["results"][task].items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr"):
            continue
        name = metric if filter_name == "none" else key
        metrics[name] = float(value)
        error: Any = raw["results"][task].get(f"{metric}_stderr,{filter_name}")
        stderr[name] = float(error) if isinstance(error, int | float) else None
    leaves = _leaves(task, raw)
    directions = raw["higher_is_better"].get(task, {})
    return TaskResult(
        metrics=metrics,
        stderr=stderr,
        # lm-eval leaves it open (None) where the tasks of a group differ.
        higher_is_better={name: directions.get(name.partition(",")[0]) is not False for name in metrics},
        scores=_scores(metrics, raw["samples"].get(task, [])),
        num_questions=sum(raw["n-samples"][leaf]["effective"] for leaf in leaves),
        version=str(raw["versions"].get(task)),
        hash=_hash([sample for leaf in leaves for sample in raw["samples"][leaf]]),
    )


def _leaves(task: str, raw: dict[str, Any]) -> list[str]:
    """The tasks with questions below `task`, which may be a group; itself if it is none."""
    if task in raw["samples"]:
        return [task]
    return [leaf for child in raw["group_subtasks"][task] for leaf in _leaves(child, raw)]


def _scores(metrics: dict[str, float], samples: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Per question, for the metrics that are one number a question (not those that need all at once)."""
    scores: dict[str, list[float]] = {}
    for metric in metrics:
        name, _, filter_name = metric.partition(",")
        values = [s.get(name) for s in samples if s["filter"] == (filter_name or "none")]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if numbers and len(numbers) == len(values):
            scores[metric] = numbers
    return scores


def _hash(samples: list[dict[str, Any]]) -> str:
    parts = (sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only errors from lm-eval's logger, and no progress bars unless a person watches a terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            yield
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _private_random_state() -> Iterator[None]:
    """Tasks draw from the global generators: seed those, and give the caller's state back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(_SEED)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
