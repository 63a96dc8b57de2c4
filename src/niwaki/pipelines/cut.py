"""From importances and a shape to the student they make: what a trial and the trim stage have in common."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from niwaki.ground.family import family_of
from niwaki.pipelines.importance import measure
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.importance import Importance
from niwaki.pruning.rounds import select_in_rounds
from niwaki.pruning.select import select
from niwaki.pruning.trim import trim


def cut(inputs: Inputs, importance: Importance, sizes: Mapping[str, int], out: Path) -> None:
    """Make the folder `out`: the teacher of the recipe, cut to `sizes` (axis -> size) as the recipe says."""
    trim(inputs.teacher_folder, out, keep=_keep(inputs, importance, sizes))


def _keep(inputs: Inputs, importance: Importance, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    num_rounds = inputs.recipe.score.rounds
    if num_rounds == 1:
        config = inputs.teacher_checkpoint.config
        return select(importance, family_of(config).axis_sizes(config), sizes)
    return select_in_rounds(
        inputs.load(inputs.teacher_folder),
        partial(measure, inputs),
        sizes,
        num_rounds=num_rounds,
        first=importance,
    )
