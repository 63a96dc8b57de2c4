"""What `score.measure`, its aggregations and `score.rounds` do to a run."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch

from niwaki.ground.model import load_model
from niwaki.pipelines import compress
from niwaki.pipelines.inputs import Inputs
from niwaki.pruning.importance import load_importance
from niwaki.pruning.measures import activation, magnitude, random, taylor
from niwaki.pruning.memory_cut import cut_model
from niwaki.pruning.scores import Scores
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load
from niwaki.reporting.compress_page import write_report

AGGREGATIONS = ("mean", "l2", "var")


def with_score(recipe_file: Path, **changes: object) -> CompressRecipe:
    recipe = load(recipe_file, CompressRecipe)
    choose = recipe.choose.model_copy(update={"grid": {"hidden": (24,), "ffn": (32,)}, "rank": "loss"})
    score = type(recipe.score).model_validate(recipe.score.model_dump() | changes)
    return recipe.model_copy(update={"choose": choose, "score": score})


def trimmed(recipe: CompressRecipe, out: Path) -> dict[str, torch.Tensor]:
    """What the trim of a run kept."""
    for stage in (compress.score_stage, compress.choose_stage, compress.trim_stage):
        stage(recipe, out)
    keep = json.loads((out / "3-trim" / "model" / "trim.json").read_text())["keep"]
    return {axis: torch.tensor(indices) for axis, indices in keep.items()}


def kept_best(importance: torch.Tensor, indices: torch.Tensor) -> bool:
    """Whether no unit that went is more important than one that stayed."""
    stayed = torch.zeros_like(importance, dtype=torch.bool).scatter(-1, indices, True)
    worst = importance.masked_fill(~stayed, torch.inf).amin(-1)
    return bool((importance.masked_fill(stayed, -torch.inf).amax(-1) <= worst).all())


@pytest.mark.parametrize("measure", ["taylor", "magnitude", "random"])
def test_a_run_cuts_by_the_measure_that_the_recipe_names(recipe_file, tmp_path, measure):
    recipe, out = with_score(recipe_file, measure=measure), tmp_path / "run"
    keep, inputs = trimmed(recipe, out), Inputs(recipe)
    teacher = inputs.load(inputs.teacher_folder)
    expected = {
        "taylor": lambda: taylor(teacher, inputs.calibration, num_samples=8),
        "magnitude": lambda: magnitude(teacher),
        "random": lambda: random(teacher, seed=recipe.seed),
    }[measure]()
    saved, provenance = load_importance(out / "1-score" / "importance.safetensors")
    assert provenance["measure"] == measure
    assert provenance["model"] == inputs.teacher_fingerprint
    for axis, values in expected.items():
        torch.testing.assert_close(saved[axis], values, rtol=1e-4, atol=1e-9)
    assert all(kept_best(saved[axis], keep[axis]) for axis in ("hidden", "ffn"))
    assert not (out / "1-score" / "scores.safetensors").exists()
    shown = json.loads((out / "1-score" / "importance.json").read_text())
    assert shown["hidden"] == saved["hidden"].tolist()
    write_report(out)
    page = (out / "report.html").read_text()
    assert "Block influence" not in page
    assert "from activations" not in page


@pytest.mark.parametrize(("batch", "sequence"), list(product(AGGREGATIONS, AGGREGATIONS)))
def test_every_pair_of_aggregations_is_what_the_run_cuts_by(recipe_file, tmp_path, batch, sequence):
    recipe, out = with_score(recipe_file, batch=batch, sequence=sequence), tmp_path / "run"
    keep, inputs = trimmed(recipe, out), Inputs(recipe)
    saved, _ = load_importance(out / "1-score" / "importance.safetensors")
    model = inputs.load(inputs.teacher_folder)
    expected = activation(model, inputs.calibration, num_samples=8, batch=batch, sequence=sequence)
    for axis, values in expected.items():
        torch.testing.assert_close(saved[axis], values, rtol=1e-4, atol=1e-9)
    assert all(kept_best(saved[axis], keep[axis]) for axis in ("hidden", "ffn"))
    sums = Scores.load(out / "1-score" / "scores.safetensors")
    again = sums.importance("ffn", batch=batch, sequence=sequence)
    assert torch.equal(again, saved["ffn"])


def test_rounds_score_what_is_left_and_end_in_one_trim_of_the_teacher(recipe_file, tmp_path):
    recipe, out = with_score(recipe_file, rounds=2), tmp_path / "run"
    keep, inputs = trimmed(recipe, out), Inputs(recipe)
    teacher = inputs.load(inputs.teacher_folder)
    first = activation(teacher, inputs.calibration, num_samples=8)
    best = {axis: first[axis].sort(descending=True, stable=True).indices for axis in ("hidden", "ffn")}
    halfway = {"hidden": best["hidden"][:28].sort().values, "ffn": best["ffn"][:, :40].sort().values}
    second = activation(cut_model(teacher, halfway), inputs.calibration, num_samples=8)
    left = second["hidden"].sort(descending=True, stable=True).indices[:24].sort().values
    assert keep["hidden"].tolist() == halfway["hidden"][left].tolist()
    student = load_model(out / "3-trim" / "model", dtype=torch.float32)
    assert student.config.hidden_size == 24
    whole = cut_model(teacher, keep)
    ids = torch.arange(8)[None]
    torch.testing.assert_close(student(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("measure", ["activation", "magnitude"])
def test_a_score_stage_that_was_cut_short_ends_in_the_same_bytes(recipe_file, tmp_path, measure):
    recipe, out = with_score(recipe_file, measure=measure), tmp_path / "run"
    compress.score_stage(recipe, out)
    file = out / "1-score" / "importance.safetensors"
    expected = file.read_bytes()
    file.unlink()
    mark = out / "1-score" / "DONE"
    shutil.move(mark, mark.with_name("BEGUN"))
    compress.score_stage(recipe, out)
    assert file.read_bytes() == expected
