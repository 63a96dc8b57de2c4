"""From importances and a shape to the student they make: what a trial and the trim stage have in common."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from niwaki.ground.family import family_of
from niwaki.pipelines.depth import layers_to_drop
from niwaki.pipelines.importance import measure
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.importance import Importance
from niwaki.pruning.rounds import select_in_rounds
from niwaki.pruning.select import select
from niwaki.pruning.trim import trim


def cut(
    inputs: Inputs, importance: Importance, sizes: Mapping[str, int], out: Path, *, depth_folder: Path
) -> None:
    """Make the folder `out`: the teacher of the recipe, cut to `sizes` (axis -> size) as the recipe says.

    What is measured to choose the layers that go is kept in `depth_folder`, so that it is measured once.
    """
    trim(inputs.teacher_folder, out, keep=_keep(inputs, importance, sizes, depth_folder))


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
