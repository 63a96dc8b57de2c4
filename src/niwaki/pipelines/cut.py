"""From scores and a shape to the student it makes: what a trial and the trim stage have in common."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from niwaki.ground.run import write_atomically
from niwaki.ground.saved import save_model
from niwaki.pipelines.around import edits_of, mend, needs_memory
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.scores import Scores
from niwaki.pruning.select import select
from niwaki.pruning.trim import RECORD, trim

MENDED = "mended.json"


def cut(inputs: Inputs, scores: Scores, sizes: Mapping[str, int], out: Path) -> None:
    """Make the folder `out`: the teacher of the recipe, cut to `sizes` (axis -> size) as the recipe says.

    Beside the model lie `trim.json` and, when something was done after the cut, `mended.json`.
    """
    score = inputs.recipe.score
    keep = select(scores, sizes, batch=score.batch, sequence=score.sequence)
    keep, edits, basis = edits_of(inputs, scores, keep)
    if not needs_memory(inputs.recipe, keep):
        trim(inputs.teacher_folder, out, keep=keep, edits=edits)
        return
    bare = out.with_name(f"{out.name}.bare")
    trim(inputs.teacher_folder, bare, keep=keep, edits=edits)
    student = inputs.load_student(bare)
    done = mend(inputs, student, keep, basis)
    save_model(student.to(inputs.saved_dtype), bare, out, replace=True)
    shutil.copyfile(bare / RECORD, out / RECORD)
    write_atomically(out / MENDED, json.dumps(done, indent=1))
    shutil.rmtree(bare)
