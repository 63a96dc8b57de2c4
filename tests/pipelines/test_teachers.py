"""Runs whose teacher is cached on disk, corrected first, or corrected alongside its student."""

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from niwaki.distillation import cache_writer
from niwaki.errors import CheckpointError, RecipeError, RunError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.metrics import read_metrics
from niwaki.ground.run import DONE
from niwaki.pipelines import compress
from niwaki.pipelines.plan import plan
from niwaki.pruning.scores import Scores
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load

CACHE = {"top_k": 64, "samples": 16}


@pytest.fixture
def recipe(recipe_file):
    """The tiny recipe with other sections, without the baseline, which is a training of its own."""

    def build(**changes):
        content = yaml.safe_load(recipe_file.read_text())
        content["evaluate"] = {"num_tokens": 160, "speed": False}
        distill = content["distill"] | changes.pop("distill", {})
        choose = content["choose"] | changes.pop("choose", {})
        data = content["data"] | changes.pop("data", {})
        path = recipe_file.with_name("changed.yaml")
        path.write_text(
            yaml.safe_dump(content | {"distill": distill, "choose": choose, "data": data} | changes)
        )
        return load(path, CompressRecipe)

    return build


@pytest.fixture
def builds(monkeypatch):
    """The rows of every forward pass of a cached teacher."""
    predict, seen = cache_writer._predict, []

    def counted(*args, **options):
        seen.append((args[2], args[3]))
        return predict(*args, **options)

    monkeypatch.setattr(cache_writer, "_predict", counted)
    return seen


def test_trials_and_the_long_run_and_another_run_share_one_cache(recipe, builds, tmp_path, capsys):
    shared = {"cache": CACHE | {"path": str(tmp_path / "shared")}}
    results = compress.run(recipe(distill=shared), out=tmp_path / "a")
    meta = json.loads((tmp_path / "shared" / "cache.json").read_text())
    assert sum(count for _, count in builds) == sum(meta["num_rows"].values())
    assert f"Cached teacher: {meta['bytes_per_token']} bytes per token" in " ".join(
        capsys.readouterr().err.split()
    )
    models = results["models"]
    assert models["distilled"]["kl_to_teacher"]["mean"] < 0.8 * models["trimmed"]["kl_to_teacher"]["mean"]
    assert not (tmp_path / "a" / "teacher-cache").exists()
    before, candidates = len(builds), json.loads((tmp_path / "a/2-choose/candidates.json").read_text())
    assert all(c["loss_after"] < c["loss_before"] for c in candidates["candidates"])
    other_order = recipe(seed=7, distill=shared, choose={"rank": "loss"})
    for stage in (compress.score_stage, compress.choose_stage, compress.trim_stage, compress.distill_stage):
        stage(other_order, tmp_path / "b")
    assert len(builds) == before


def test_a_student_of_the_cache_is_taught_without_the_teacher(recipe, tmp_path, monkeypatch):
    found = recipe(distill={"cache": CACHE}, choose={"rank": "loss"})
    for stage in (compress.score_stage, compress.choose_stage, compress.trim_stage, compress.distill_stage):
        stage(found, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "4-distill")
    monkeypatch.setattr("niwaki.pipelines.inputs.Inputs.load", None)
    compress.distill_stage(found, tmp_path / "run")
    assert (tmp_path / "run" / "4-distill" / DONE).exists()
    assert (tmp_path / "run" / "teacher-cache" / "cache.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"sequence_length_tokens": 8}}, "another row length"),
        ({"data": {"held_out": "40%"}}, "another text or its order"),
        ({"distill": {"cache": CACHE | {"top_k": 32}}}, "another number of most likely tokens"),
    ],
)
def test_a_cache_of_another_run_is_refused_before_any_work(recipe, teacher, tmp_path, changes, words):
    path = {"path": str(tmp_path / "shared")}
    made = recipe(distill={"cache": CACHE | path}, choose={"rank": "loss"})
    make_cache(made, tmp_path / "first")
    changes = {"distill": {"cache": CACHE}} | changes
    changes["distill"] = {"cache": changes["distill"]["cache"] | path}
    with pytest.raises(CheckpointError, match=words):
        compress.score_stage(recipe(**changes), tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_cache_of_another_teacher_is_refused_in_the_plan(recipe, teacher, tmp_path):
    found = recipe(distill={"cache": CACHE | {"path": str(tmp_path / "shared")}})
    make_cache(found, tmp_path / "first")
    assert plan(found, out=tmp_path / "second", flops_per_s=1e9).problems == ()
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    model.save_pretrained(teacher)
    (problem,) = plan(found, out=tmp_path / "second", flops_per_s=1e9).problems
    assert "another teacher" in problem.message


def make_cache(recipe, out):
    """A finished cache of the recipe, without the run around it."""
    from niwaki.pipelines.cached_teacher import cached_rows
    from niwaki.pipelines.inputs import Inputs

    cached_rows(Inputs(recipe, out))


def test_a_teacher_corrected_first_is_the_teacher_of_all_stages(recipe, teacher, tmp_path):
    out = tmp_path / "run"
    correct = {"when": "before", "learning_rate": 3e-4, "tokens": "1k"}
    found = recipe(correct=correct, distill={"cache": CACHE}, choose={"rank": "loss"})
    with pytest.raises(RunError, match="0-correct has not finished"):
        compress.score_stage(found, out)
    results = compress.run(found, out=out)
    corrected = Checkpoint(out / "0-correct" / "model")
    assert corrected.dtype(corrected.names()[0]) == torch.bfloat16
    assert not (out / "0-correct" / "checkpoints").exists()
    assert len([r for r in read_metrics(out / "0-correct" / "metrics.jsonl") if "loss" in r]) == 16
    assert corrected.fingerprint() != Checkpoint(teacher).fingerprint()
    assert Scores.load(out / "1-score" / "scores.safetensors").provenance["model"] == (
        corrected.fingerprint()
    )
    assert json.loads((out / "teacher-cache" / "cache.json").read_text())["belongs_to"]["teacher"] == (
        corrected.fingerprint()
    )
    models = results["models"]
    assert list(models) == ["teacher", "corrected", "trimmed", "distilled"]
    assert models["corrected"]["held_out_loss"] != models["teacher"]["held_out_loss"]
    assert models["corrected"]["kl_to_teacher"] is None
    assert models["teacher"]["kl_to_teacher"]["mean"] > 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["teacher"]["fingerprint"] == Checkpoint(teacher).fingerprint()
    assert "Corrected" in (out / "report.html").read_text()
    changed = recipe(correct=correct | {"tokens": "2k"}, distill={"cache": CACHE}, choose={"rank": "loss"})
    with pytest.raises(RunError, match="0-correct: made with other inputs"):
        compress.distill_stage(changed, out)


def test_a_teacher_corrected_alongside_is_saved_and_measured(recipe, tmp_path):
    out = tmp_path / "run"
    correct = {"when": "alongside", "learning_rate": 3e-3}
    results = compress.run(recipe(correct=correct, choose={"rank": "loss"}), out=out)
    assert not (out / "0-correct").exists()
    models = results["models"]
    assert models["corrected"]["held_out_loss"] != models["teacher"]["held_out_loss"]
    assert models["distilled"]["kl_to_teacher"]["mean"] < models["trimmed"]["kl_to_teacher"]["mean"]
    assert models["corrected"]["num_parameters"] == models["teacher"]["num_parameters"]
    assert any("teacher_cross_entropy" in r for r in read_metrics(out / "4-distill" / "metrics.jsonl"))


def test_a_recipe_that_corrects_nothing_has_no_such_stage(recipe, tmp_path):
    with pytest.raises(RecipeError, match="corrects no teacher"):
        compress.correct_stage(recipe(), tmp_path / "run")
