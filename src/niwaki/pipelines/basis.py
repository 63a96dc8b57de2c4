"""The principal basis of a teacher's hidden stream, which a rotation needs; measured once for each text."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from niwaki.ground import processes
from niwaki.ground.corpus import default_cache
from niwaki.ground.run import input_hash
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.rotate import principal_basis, second_moment


def stream_basis(inputs: Inputs) -> Tensor:
    """Principal basis [d, d] of the teacher's hidden stream on calibration rows; kept in the cache.

    Collective: several processes share out the rows, and all get what the main one has in its cache.
    """
    score = inputs.recipe.score
    origin = {**inputs.facts(), "rows": score.num_samples, "seed": inputs.recipe.seed}
    origin["length"] = inputs.recipe.data.sequence_length_tokens
    path = default_cache() / "bases" / f"{input_hash(origin)}.safetensors"
    if not processes.by_main(path.exists):
        teacher = inputs.load_or_stream(inputs.teacher_folder)
        moment = second_moment(
            teacher, inputs.calibration, num_samples=score.num_samples, batch_rows=score.batch_rows
        )
        _save(moment, path)
    return processes.by_main(lambda: load_file(path)["basis"])


@processes.main_only
def _save(moment: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file({"basis": principal_basis(moment).contiguous()}, partial)
    partial.replace(path)
