"""What a family cost, beside training each of its models from scratch (arXiv 2407.14679, section 1).

In: the finished runs of the members. Out: the content of `family.json`. FLOPs are counted from shapes and
tokens by `pipelines.costs`: the scoring pass, the trials of the search, and the distillation with the forward
pass of its teacher, which the paper's own 1.8x leaves out. Measuring the models is not counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from niwaki.ground.family import family_of
from niwaki.ground.metrics import read_metrics
from niwaki.pipelines.amounts import amounts
from niwaki.pipelines.compress import CHOOSE, DISTILL, EVALUATE
from niwaki.pipelines.costs import Shape, distill_flops, family_saving, scratch_flops
from niwaki.pipelines.open_run import MANIFEST
from niwaki.pipelines.plan import own_shape, read_config, shape_of
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.family import FamilyRecipe

_MEASURED = ("num_parameters", "held_out_loss", "bits_per_byte", "kl_to_teacher", "tasks", "disk_bytes")


def account(
    recipe: FamilyRecipe, singles: list[CompressRecipe], out: Path, *, speeds: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect measurements and costs of the teacher and every member; `speeds` by "teacher" and folder.

    Returns:
        {"scratch_tokens", "sequence_length_tokens", "teacher": measurements, "members": [measurements and
        costs], "flops": of all members, "saving": None without `scratch_tokens`}.
    """
    length = recipe.data.sequence_length_tokens
    teacher = own_shape(read_config(recipe.teacher))
    first = _results(out / recipe.folders[0])["teacher"]
    members: list[dict[str, Any]] = []
    caches: list[str] = []
    for index, (folder, single) in enumerate(zip(recipe.folders, singles, strict=True)):
        member = recipe.members[index]
        measured = _results(out / folder)
        shape = own_shape(read_config(str(out / folder / DISTILL / "model")))
        cache = single.distill.cache and single.distill.cache.path
        flops = _flops(single, out / folder, shape, is_cached=cache in caches)
        caches += [cache] if cache else []
        scratch = scratch_flops(shape, recipe.scratch_tokens, length) if recipe.scratch_tokens else None
        members.append(
            {
                "name": folder,
                "cut_from": "teacher" if index == 0 else member.cut_from,
                "learn_from": "teacher" if index == 0 else member.learn_from,
                "sizes": dict(shape.sizes),
                **{key: measured["distilled"][key] for key in _MEASURED},
                "speed": speeds.get(folder),
                "random_loss": measured["random"]["held_out_loss"] if "random" in measured else None,
                "trimmed_loss": measured["trimmed"]["held_out_loss"],
                "tokens": _tokens(out / folder),
                "flops": flops,
                "scratch_flops": scratch,
                "share_of_scratch": flops["total"] / scratch if scratch else None,
            }
        )
    made = [member["flops"]["total"] for member in members]
    teacher_scratch = scratch_flops(teacher, recipe.scratch_tokens, length) if recipe.scratch_tokens else None
    return {
        "scratch_tokens": recipe.scratch_tokens,
        "sequence_length_tokens": length,
        "teacher": {
            "name": recipe.teacher,
            "sizes": dict(teacher.sizes),
            **{key: first[key] for key in _MEASURED},
            "speed": speeds.get("teacher"),
            "scratch_flops": teacher_scratch,
        },
        "members": members,
        "flops": sum(made),
        "saving": None
        if teacher_scratch is None
        else family_saving(teacher_scratch, [member["scratch_flops"] for member in members], made),
    }


def _flops(single: CompressRecipe, folder: Path, shape: Shape, *, is_cached: bool) -> dict[str, float]:
    """FLOPs of the stages that made a member, from what the stages recorded.

    `is_cached` says that a member before has made the cached teacher that this one reads.
    """
    length = single.data.sequence_length_tokens
    config = read_config(single.teacher)
    parent = own_shape(config)
    tutor = parent if single.distill.teacher is None else own_shape(read_config(single.distill.teacher))
    candidates = json.loads((folder / CHOOSE / "candidates.json").read_text())["candidates"]
    work = amounts(single, num_candidates=len(candidates))
    scoring = work.calibration_passes * work.calibration_rows * length * parent.forward_flops(length)
    # Scoring in rounds is done again for every candidate, and for the one that is cut in the end.
    search = (work.calibration_rounds - 1) * scoring * (len(candidates) + 1)
    # A cached teacher has spoken once for all trainings: for every token of the text.
    heard = tutor.forward_flops(length) if work.has_cache else 0.0
    for candidate in candidates:
        tried = shape_of(family_of(config), config, candidate["sizes"])
        num_tokens = candidate["num_steps"] * single.batch_rows * length
        search += num_tokens * (distill_flops(tutor, tried, length) - heard)
    flops = {
        "score": scoring,
        "cache": 0.0 if is_cached else heard * _text_tokens(folder),
        "choose": search,
        "distill": _tokens(folder) * (distill_flops(tutor, shape, length) - heard),
    }
    return flops | {"total": sum(flops.values())}


def _text_tokens(folder: Path) -> int:
    """Tokens of the training text."""
    return int(json.loads((folder / MANIFEST).read_text())["data"]["num_train_tokens"])


def _tokens(folder: Path) -> int:
    """Tokens that the distillation saw."""
    rows = read_metrics(folder / DISTILL / "metrics.jsonl")
    return max(int(row["tokens"]) for row in rows)


def _results(folder: Path) -> dict[str, Any]:
    models: dict[str, Any] = json.loads((folder / EVALUATE / "results.json").read_text())["models"]
    return models
