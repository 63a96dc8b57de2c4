"""From importances and a shape to the student they make: what a trial and the trim stage have in common."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.ground import processes
from niwaki.ground.family import family_of
from niwaki.ground.model import load_model
from niwaki.ground.run import write_atomically
from niwaki.ground.saved import save_model
from niwaki.pipelines.around import edits_of, mend, needs_memory
from niwaki.pipelines.depth import layers_to_drop
from niwaki.pipelines.importance import measure
from niwaki.pipelines.inputs import Inputs, device
from niwaki.pruning.edit import Edit
from niwaki.pruning.importance import Importance
from niwaki.pruning.rounds import select_in_rounds
from niwaki.pruning.select import select
from niwaki.pruning.trim import RECORD, trim

MENDED = "mended.json"


def cut(
    inputs: Inputs, importance: Importance, sizes: Mapping[str, int], out: Path, *, depth_folder: Path
) -> None:
    """Make the folder `out`: the teacher of the recipe, cut to `sizes` (axis -> size) as the recipe says.

    What is measured to choose the layers that go is kept in `depth_folder`, so that it is measured once.
    Beside the model lie `trim.json` and, when something was done after the cut, `mended.json`.

    Collective: several processes share out what is measured; the main one writes.
    """
    keep = _keep(inputs, importance, sizes, depth_folder)
    keep, edits, basis = edits_of(inputs, importance, keep)
    if not needs_memory(inputs.recipe, keep):
        _trim(inputs, out, keep, edits)
        return
    bare = out.with_name(f"{out.name}.bare")
    _trim(inputs, bare, keep, edits)
    student = load_model(bare, dtype=torch.float32, device=device())  # each process mends all of its own
    done = mend(inputs, student, keep, basis)
    _save(inputs, student, done, bare, out)


@processes.main_only
def _trim(inputs: Inputs, out: Path, keep: Mapping[str, Tensor], edits: Sequence[Edit]) -> None:
    trim(inputs.teacher_folder, out, keep=keep, edits=edits)


@processes.main_only
def _save(inputs: Inputs, student: PreTrainedModel, done: dict[str, Any], bare: Path, out: Path) -> None:
    save_model(student.to(inputs.saved_dtype), bare, out, replace=True)
    shutil.copyfile(bare / RECORD, out / RECORD)
    write_atomically(out / MENDED, json.dumps(done, indent=1))
    shutil.rmtree(bare)


def _keep(
    inputs: Inputs, importance: Importance, sizes: Mapping[str, int], depth_folder: Path
) -> dict[str, Tensor]:
    num_rounds = inputs.recipe.score.rounds
    drop_layers = layers_to_drop(inputs, importance, sizes, folder=depth_folder)
    if num_rounds == 1:
        config = inputs.teacher_checkpoint.config
        full_sizes = family_of(config).axis_sizes(config)
        return select(importance, full_sizes, sizes, drop_layers=drop_layers)
    return select_in_rounds(
        inputs.load(inputs.teacher_folder),
        partial(measure, inputs),
        sizes,
        num_rounds=num_rounds,
        first=importance,
        drop_layers=drop_layers,
    )
