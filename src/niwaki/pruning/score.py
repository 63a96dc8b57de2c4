"""Score every axis of a model in one forward pass over a calibration set; no gradients.

Minitron (arXiv 2407.14679, section 2.2): hidden channels by the output of the norms (the final one left
out), neurons by the input of the second MLP matrix, heads by the norm of their output before the output
projection, layers by block influence. Experts by the weighted norm of their output (REAP, arXiv 2510.13999),
their neurons as those of an MLP, over the tokens routed to them. The paper uses 1024 samples
of its training text.

Scores depend on kernels, so each file names the versions, dtype and attention it was made with. They depend
on batch size and padding only as the forward pass does: by float rounding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from niwaki import __version__
from niwaki.errors import FamilyError, RecipeError, RunError
from niwaki.ground import processes
from niwaki.ground.calibration import Rows, take_rows
from niwaki.ground.family import Family, family_of
from niwaki.ground.progress import progress
from niwaki.ground.streamed import passes_per_batch, rows_at_once
from niwaki.pruning.aggregate import SEQUENCE_AGGREGATIONS
from niwaki.pruning.probe import Probe
from niwaki.pruning.scores import Scores, merge

_CHECKPOINT_INTERVAL_S = 60.0


def score(
    model: PreTrainedModel,
    rows: Rows,
    *,
    num_samples: int = 1024,
    batch_rows: int = 8,
    first_row: int = 0,
    axes: Sequence[str] | None = None,
    sequence: Sequence[str] = ("mean",),
    model_id: str = "",
    data_id: str = "",
    checkpoint: Path | None = None,
) -> Scores:
    """Score a model on `num_samples` rows, each one sample, from `first_row` on.

    Only the decoder runs, without the language-model head. A streamed model (`ground.streamed`) is read once
    for as many batches as memory holds, and gets the same scores. Collective: each of several processes
    scores part of the rows, and all get the sums of all.

    `axes` defaults to all that the family has of hidden, ffn, group, layer, expert and effn. `sequence` lists
    the token aggregations to keep, of mean, l2 and var; each costs time. `model_id` and `data_id` go into the
    provenance.

    With `checkpoint`, running sums are written there about once a minute, and a later call with the same
    arguments continues from them to the same bits; the file is removed at the end. Each of several processes
    has a file of its own, named after its part.

    Raises FamilyError for an axis that cannot be scored, RecipeError for an unknown aggregation, DataError
    for missing or empty rows, CheckpointError for weights and EvaluationError for activations that are not
    finite, RunError for a checkpoint made with other arguments.
    """
    family = family_of(model.config)
    axes = _choose_axes(family, axes)
    _check_sequence(sequence)
    if num_samples < 1:
        raise RecipeError(f"num_samples is {num_samples}.", "Score at least one sample; the paper uses 1024.")
    mine = processes.my_part(num_samples, step=batch_rows)
    checkpoint = _of_part(checkpoint)
    scores = Scores(
        sizes=family.axis_sizes(model.config),
        provenance={
            **_describe(model),
            "model": model_id,
            "data": data_id,
            "first_row": first_row + mine.start,
            "sample_tokens": take_rows(rows, first_row, 1)["inputs"].shape[1],
            "axes": list(axes),
            "sequence": list(sequence),
        },
    )
    if checkpoint is not None and checkpoint.exists():
        scores = _resume(checkpoint, scores, len(mine))
    probe = Probe(model, family=family, axes=axes, sequence=sequence)
    saved_at_s = time.monotonic()
    at_once = rows_at_once(model, batch_rows=batch_rows, row_tokens=scores.provenance["sample_tokens"])
    num_batches = -(-(len(mine) - scores.num_samples) // batch_rows)
    with probe.listening(), progress("score", total=num_batches * passes_per_batch(model)) as bar:
        for start in range(mine.start + scores.num_samples, mine.stop, at_once):
            end = min(start + at_once, mine.stop)
            batches = [
                take_rows(rows, first_row + first, min(batch_rows, end - first))
                for first in range(start, end, batch_rows)
            ]
            probe.run(batches, scores, advance=bar.advance)
            if checkpoint is not None and time.monotonic() - saved_at_s >= _CHECKPOINT_INTERVAL_S:
                scores.save(checkpoint)
                saved_at_s = time.monotonic()
    parts = [part for part in processes.gather(scores) if part.num_samples]
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return merge(parts) if len(parts) > 1 else parts[0]


def _of_part(checkpoint: Path | None) -> Path | None:
    if checkpoint is None or processes.count() == 1:
        return checkpoint
    return checkpoint.with_stem(f"{checkpoint.stem}-{processes.number() + 1}-of-{processes.count()}")


def _choose_axes(family: Family, axes: Sequence[str] | None) -> tuple[str, ...]:
    experts = ("expert", "effn") if family.sites.experts else ()
    scoreable = ("hidden", *(["ffn"] if family.sites.ffn else []), "group", "layer", *experts)
    if axes is None:
        return scoreable
    # A key-value head is ranked by its query heads, so "group" covers "kv".
    missing = set(axes) - {*scoreable, "kv"}
    if missing:
        raise FamilyError(
            f"{family.model_type}: axes {', '.join(sorted(missing))} cannot be scored.",
            f"Choose from {', '.join(scoreable)}.",
        )
    return tuple(axis for axis in scoreable if axis in axes or (axis == "group" and "kv" in axes))


def _check_sequence(sequence: Sequence[str]) -> None:
    unknown = [name for name in sequence if name not in SEQUENCE_AGGREGATIONS]
    if unknown or not sequence:
        raise RecipeError(
            f"Sequence aggregation {unknown[0] if unknown else '(none)'!r} is unknown.",
            f"Choose from {', '.join(SEQUENCE_AGGREGATIONS)}.",
        )


def _describe(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": model.config._attn_implementation,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "niwaki": __version__,
    }


def _resume(checkpoint: Path, fresh: Scores, num_samples: int) -> Scores:
    found = Scores.load(checkpoint)
    differing = [name for name, value in fresh.provenance.items() if found.provenance.get(name) != value]
    if found.sizes != fresh.sizes:
        differing.append("sizes")
    if found.num_samples > num_samples:
        differing.append("num_samples")
    if differing:
        raise RunError(
            f"Checkpoint {checkpoint} is of another scoring run; they differ in {', '.join(differing)}.",
            "Remove it to score from the start, or repeat the run it belongs to.",
        )
    return found
