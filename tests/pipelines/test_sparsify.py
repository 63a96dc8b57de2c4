"""The sparsify line on a tiny model: runs, resumes, refuses, and says what it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.errors import BudgetError, CheckpointError, NiwakiError, RecipeError, RunError
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.model import load_model
from niwaki.masks.file import MaskFile
from niwaki.pipelines import sparsify, sparsify_plan
from niwaki.pipelines.sparsify_inputs import SparsifyInputs
from niwaki.recipe.kinds import load_recipe
from niwaki.recipe.sparsify import SparsifyRecipe

from ..conftest import write_texts


def write_sparsify_recipe(folder: Path, trained: Path, **changes) -> Path:
    """The whole line in a few steps."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = write_texts(folder / "texts")
    model = shutil.copytree(trained, folder / "model")
    recipe = {
        "kind": "sparsify",
        "model": str(model),
        "data": {"source": str(texts), "sequence_length_tokens": 16, "held_out": "30%"},
        "prior": {"method": "wanda", "num_samples": 8, "batch_rows": 4},
        "learn": {
            "objective": "distill",
            "tokens": 4096,
            "batch_tokens": 64,
            "micro_rows": 2,
            "learning_rate": 5e-3,
            "min_learning_rate": 5e-4,
            "precision": "float32",
            "save_every_steps": 5,
        },
        "evaluate": {"num_tokens": 160, "sensitivity_rows": 4},
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def recipe_file(trained: Path, tmp_path: Path) -> Path:
    return write_sparsify_recipe(tmp_path / "given", trained)


@pytest.fixture(scope="session")
def finished(trained: Path, tmp_path_factory: pytest.TempPathFactory):
    """A finished run, what `run` returned, and its recipe. Tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("sparsify")
    recipe = load_recipe(write_sparsify_recipe(folder / "given", trained))
    return folder / "run", sparsify.run(recipe, out=folder / "run"), recipe


def changed(recipe_file: Path, **sections) -> SparsifyRecipe:
    content = yaml.safe_load(recipe_file.read_text())
    for name, section in sections.items():
        content[name] = content[name] | section if isinstance(section, dict) else section
    return SparsifyRecipe.model_validate(content)


def problem(recipe: SparsifyRecipe, out: Path) -> NiwakiError:
    planned = sparsify_plan.plan(recipe, out=out, flops_per_s=1.0)
    assert planned.problems
    return planned.problems[0]


def test_the_line_makes_a_stock_model_with_exactly_two_of_four(finished):
    out, results, _ = finished
    model = load_model(out / "3-apply" / "model")
    mask = MaskFile(out / "2-learn" / "learned.mask")
    for name in mask.shapes:
        groups = (model.get_parameter(name) != 0).reshape(-1, 4)
        assert (groups.sum(1) <= 2).all()
        assert not ((model.get_parameter(name) != 0) & ~mask.mask(name)).any()
    assert set(results["models"]) == {
        "dense", "magnitude", "wanda", "sparsegpt", "sparsegpt_update", "prior", "sparse",
    }  # fmt: skip


def test_what_is_measured_is_the_saved_model_and_the_training_s_own_last_figure(finished):
    out, results, recipe = finished
    texts = SparsifyInputs(recipe, out).texts
    model = load_model(out / "3-apply" / "model", dtype=torch.float32)
    found = held_out_loss(model, texts.held_out, num_rows=texts.num_held_out_rows, batch_rows=8)
    sparse = results["models"]["sparse"]
    assert sparse["held_out_loss"]["mean"] == pytest.approx(found.nats_per_token.mean, rel=1e-6)
    learned = json.loads((out / "2-learn" / "learn.json").read_text())
    # The masked weights of the run are bfloat16 on disk and float32 in memory: the same values.
    assert learned["held_out"]["cross_entropy"] == pytest.approx(sparse["curve_loss"], rel=1e-4)


def test_learning_is_nearer_to_dense_than_its_prior(finished):
    _, results, _ = finished
    models = results["models"]
    assert models["sparse"]["kl_to_dense"]["mean"] < models["prior"]["kl_to_dense"]["mean"]
    assert models["prior"]["held_out_loss"] == models["wanda"]["held_out_loss"]


def test_the_report_shows_methods_curve_difference_and_sensitivity(finished):
    out, results, _ = finished
    page = (out / "report.html").read_text()
    for words in ("SparseGPT", "weights updated", "Loss by step", "What learning changed", "What each layer"):
        assert words in page
    assert set(results["sensitivity"]) == {"0", "1"} or set(results["sensitivity"]) == {0, 1}


def test_the_card_beside_the_model_has_the_table_and_the_recipe(finished):
    out, results, recipe = finished
    card = (out / "3-apply" / "model" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert {"niwaki", "sparsity"} <= set(front["tags"])
    row = next(line for line in card.splitlines() if line.startswith("| Learned"))
    assert f"{results['models']['sparse']['held_out_loss']['mean']:.3f}" in row
    assert 'pattern: "2:4"' in card or "pattern: '2:4'" in card
    assert str(Path(recipe.model).parent) not in card
    pushed = CliRunner().invoke(app, ["push", str(out), "gardener/sparse", "--license", "mit", "--dry-run"])
    assert "model.safetensors" in pushed.stdout, pushed.output


def test_a_finished_run_is_left_alone_and_a_changed_recipe_is_refused(finished):
    out, results, recipe = finished
    before = (out / "3-apply" / "model" / "model.safetensors").stat().st_mtime_ns
    assert sparsify.run(recipe, out=out)["models"] == results["models"]
    assert (out / "3-apply" / "model" / "model.safetensors").stat().st_mtime_ns == before
    other = recipe.model_copy(update={"pattern": "1:4"})
    with pytest.raises(RunError, match="pattern"):
        sparsify.run(other, out=out)


def test_a_killed_learning_goes_on_to_the_same_mask(finished, tmp_path, monkeypatch):
    out, _, recipe = finished
    again = tmp_path / "run"
    sparsify.prior_stage(recipe, again)
    from niwaki.ground import snapshot

    real = snapshot.save

    def die(*args, **options):
        real(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot, "save", die)
    with pytest.raises(KeyboardInterrupt):
        sparsify.learn_stage(recipe, again)
    monkeypatch.undo()
    sparsify.learn_stage(recipe, again)
    one, other = (MaskFile(run / "2-learn" / "learned.mask") for run in (out, again))
    assert one.sha256 == other.sha256
    assert not (again / "2-learn" / "checkpoints").exists()


def test_one_shot_alone_with_updated_weights_and_dense_layers(recipe_file, tmp_path):
    recipe = changed(
        recipe_file,
        prior={"method": "sparsegpt", "update": True},
        learn=None,
        dense_layers=1,
        evaluate={"methods": ["sparsegpt_update"]},
    )
    results = sparsify.run(recipe, out=tmp_path / "run")
    assert len(results["mask"]["dense"]) == 1
    models = results["models"]
    assert models["sparse"]["held_out_loss"]["mean"] == pytest.approx(
        models["sparsegpt_update"]["held_out_loss"]["mean"], abs=2e-3
    )
    mask = MaskFile(tmp_path / "run" / "1-prior" / "prior.mask")
    assert mask.origin.made["update"] is True
    assert len(mask.shapes) == 7


def test_masks_are_learned_over_updated_weights_from_bfloat16_gates(recipe_file, tmp_path):
    recipe = changed(
        recipe_file,
        prior={"method": "sparsegpt", "update": True},
        learn={"tokens": 512, "gates": "bfloat16", "optimizer": "adamw_8bit", "checkpointing": True},
        evaluate={"methods": [], "sensitivity_rows": 0},
    )
    sparsify.run(recipe, out=tmp_path / "run")
    mask = MaskFile(tmp_path / "run" / "2-learn" / "learned.mask")
    dense = load_model(recipe.model)
    updated = load_model(tmp_path / "run" / "1-prior" / "model")
    prior = MaskFile(tmp_path / "run" / "1-prior" / "prior.mask")
    name = next(iter(prior.shapes))
    same = dense.get_parameter(name) == updated.get_parameter(name)
    assert same[~prior.mask(name)].all()
    assert not same[prior.mask(name)].all()
    assert mask.origin.fingerprint == prior.origin.fingerprint


def test_a_mask_is_the_prior_of_another_domain(finished, recipe_file, tmp_path):
    out, _, recipe = finished
    given = {"mask": str(out / "2-learn" / "learned.mask"), "method": "sparsegpt"}
    content = yaml.safe_load(recipe_file.read_text()) | {"model": recipe.model, "prior": given}
    content["learn"]["tokens"] = 64
    content["evaluate"] |= {"methods": [], "sensitivity_rows": 0}
    sparsify.run(SparsifyRecipe.model_validate(content), out=tmp_path / "run")
    prior = MaskFile(tmp_path / "run" / "1-prior" / "prior.mask")
    assert prior.sha256 == MaskFile(given["mask"]).sha256
    content["pattern"] = "1:4"
    found = problem(SparsifyRecipe.model_validate(content), tmp_path / "other")
    assert isinstance(found, RecipeError)
    assert "has pattern 2:4, the recipe 1:4" in found.message
    content |= {"pattern": "2:4", "model": "sapling"}
    content["data"]["sequence_length_tokens"] = 16
    assert isinstance(problem(SparsifyRecipe.model_validate(content), tmp_path / "other"), CheckpointError)


def test_what_cannot_work_is_said_before_any_work(recipe_file, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert "groups of 5" in problem(changed(recipe_file, pattern="1:5"), out).message
    assert "ways to choose" in problem(changed(recipe_file, pattern="8:16"), out).message
    assert "fits no tensor" in problem(changed(recipe_file, dense=["layer 9"]), out).message
    assert "no tensor" not in problem(changed(recipe_file, model=str(tmp_path / "none")), out).message
    monkeypatch.setattr(sparsify_plan, "allowed_memory_bytes", lambda device: 10_000)
    found = problem(changed(recipe_file), out)
    assert isinstance(found, BudgetError)
    assert "adamw_8bit" in found.remedy
    with pytest.raises(BudgetError):
        sparsify.run(changed(recipe_file), out=out)
    assert not out.exists()


def test_check_prints_the_memory(recipe_file, tmp_path, capsys):
    assert not sparsify.check(changed(recipe_file), out=tmp_path / "run", flops_per_s=1e9)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Learning needs about" in printed
    assert "logits and optimiser" in printed
