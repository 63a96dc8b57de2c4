"""What the score stage makes and the later stages rank by: the importance of every unit of the teacher.

`importance.safetensors` is what a cut needs, whatever the measure. The activation measure also leaves
`scores.safetensors`, its running sums, from which other aggregations over samples follow without a pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from niwaki.ground import processes
from niwaki.ground.run import write_atomically
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.importance import Importance, load_importance, save_importance
from niwaki.pruning.measures import MEASURES, activation
from niwaki.pruning.score import score

FILE, SUMS = "importance.safetensors", "scores.safetensors"
# Not effn: that of a large mixture is millions of numbers, which a report does not show.
_SHOWN_AXES = ("layer", "hidden", "ffn", "group", "expert")


def score_teacher(inputs: Inputs, folder: Path) -> None:
    """Measure the teacher as the recipe says and write the result into `folder`."""
    recipe = inputs.recipe
    importance: Importance
    if recipe.score.measure == "activation":
        model = inputs.load_or_stream(inputs.teacher_folder)
        # Unlike a pass inside a trial, this one is resumed when it is killed.
        scores = score(
            model,
            inputs.calibration,
            num_samples=recipe.score.num_samples,
            batch_rows=recipe.score.batch_rows,
            sequence=(recipe.score.sequence,),
            model_id=inputs.teacher_fingerprint,
            data_id=inputs.corpus.fingerprint,
            checkpoint=folder / "partial.safetensors",
        )
        processes.by_main(lambda: scores.save(folder / SUMS))
        importance = scores.importances(batch=recipe.score.batch, sequence=recipe.score.sequence)
    else:
        model = inputs.load(inputs.teacher_folder)
        importance = measure(inputs, model)
    provenance = {
        **recipe.score.model_dump(mode="json"),
        "model": inputs.teacher_fingerprint,
        "data": inputs.corpus.fingerprint,
        "sample_tokens": recipe.data.sequence_length_tokens,
        "seed": recipe.seed,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    processes.by_main(lambda: save_importance(folder / FILE, importance, provenance=provenance))
    shown = json.dumps(_for_report(importance, inputs), indent=1)
    processes.by_main(lambda: write_atomically(folder / "importance.json", shown))


def measure(inputs: Inputs, model: PreTrainedModel) -> Importance:
    """The importance of the units of `model`, the teacher or what a round has left of it."""
    section = inputs.recipe.score
    options: dict[str, Any] = {"num_samples": section.num_samples, "batch_rows": section.batch_rows}
    if section.measure == "activation":
        options |= {"batch": section.batch, "sequence": section.sequence}
        return activation(model, inputs.calibration, **options)
    return MEASURES[section.measure](model, inputs.calibration, seed=inputs.recipe.seed, **options)


def load(folder: Path) -> Importance:
    """What `score_teacher` left in `folder`."""
    return load_importance(folder / FILE)[0]


def _for_report(importance: Importance, inputs: Inputs) -> dict[str, Any]:
    recipe = inputs.recipe
    reads_rows = recipe.score.measure in ("activation", "taylor")
    return {
        **{axis: importance[axis].tolist() for axis in _SHOWN_AXES if axis in importance},
        "measure": recipe.score.measure,
        "num_samples": recipe.score.num_samples if reads_rows else None,
        "sequence_length_tokens": recipe.data.sequence_length_tokens if reads_rows else None,
    }
