"""From scores and a shape to the student it makes: what a trial and the trim stage have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from niwaki.pipelines.depth import layers_to_drop
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.scores import Scores
from niwaki.pruning.select import select
from niwaki.pruning.trim import trim


def cut(inputs: Inputs, scores: Scores, sizes: Mapping[str, int], out: Path, *, depth_folder: Path) -> None:
    """Make the folder `out`: the teacher of the recipe, cut to `sizes` (axis -> size) as the recipe says.

    What is measured to choose the layers that go is kept in `depth_folder`, so that it is measured once.
    """
    score = inputs.recipe.score
    drop_layers = layers_to_drop(inputs, scores, sizes, folder=depth_folder)
    keep = select(scores, sizes, batch=score.batch, sequence=score.sequence, drop_layers=drop_layers)
    trim(inputs.teacher_folder, out, keep=keep)
