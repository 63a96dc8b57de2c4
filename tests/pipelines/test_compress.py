"""The whole line on a tiny teacher: what it leaves behind, and what it refuses."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from niwaki.errors import NiwakiError, RunError
from niwaki.evaluation.paired import load_paired
from niwaki.ground.run import DONE
from niwaki.pipelines import compress
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load
from niwaki.recipe.trim import Trim

RESULTS = ("4-distill/model/model.safetensors", "4-distill/metrics.jsonl", "2-choose/candidates.json")


def test_the_student_is_a_stock_model_that_learned_from_its_teacher(finished):
    out, results, recipe = finished
    models = results["models"]
    student = AutoModelForCausalLM.from_pretrained(out / "4-distill" / "model")
    assert student.dtype == torch.bfloat16
    chosen = next(
        c for c in json.loads((out / "2-choose/candidates.json").read_text())["candidates"] if c["chosen"]
    )
    assert sum(p.numel() for p in student.parameters()) == chosen["num_parameters"]
    assert (
        models["distilled"]["num_parameters"]
        == chosen["num_parameters"]
        < models["teacher"]["num_parameters"]
    )
    assert models["distilled"]["kl_to_teacher"]["mean"] < models["trimmed"]["kl_to_teacher"]["mean"]
    tokens = [
        AutoTokenizer.from_pretrained(p)("A niwaki.").input_ids
        for p in (recipe.teacher, out / "4-distill" / "model")
    ]
    assert tokens[0] == tokens[1]


def test_what_was_measured_row_by_row_is_kept_for_comparisons(finished):
    out, results, _ = finished
    paired = load_paired(out / "5-evaluate" / "paired.json")
    measure = paired.measures["held-out loss"]
    assert set(measure.values) == set(results["models"])
    for name, model in results["models"].items():
        assert measure.mean(name).mean == pytest.approx(model["held_out_loss"]["mean"])
        assert "units" not in model
    assert (paired.product, paired.baseline) == ("distilled", "teacher")


def test_the_line_teaches_with_the_losses_of_the_recipe(recipe_file, tmp_path):
    recipe = load(recipe_file, CompressRecipe).model_dump(mode="json")
    recipe["distill"] |= {"loss": "reverse_kl", "lm_weight": 0.1, "hidden": {"layers": {"last": "last"}}}
    recipe["evaluate"]["baseline"] = "none"
    out = tmp_path / "run"
    compress.run(CompressRecipe.model_validate(recipe), out=out)
    first = json.loads((out / "4-distill" / "metrics.jsonl").read_text().splitlines()[1])
    assert first["alpha"] > 0
    assert first["loss"] == pytest.approx(2 * first["reverse_kl"] + 0.1 * first["cross_entropy"], rel=1e-4)
    student = AutoModelForCausalLM.from_pretrained(out / "4-distill" / "model")
    assert not any("lift" in name for name, _ in student.named_parameters())


def test_a_run_leaves_a_report_a_card_and_no_pickle(finished):
    out, *_ = finished
    assert "<html" in (out / "report.html").read_text()
    assert "library_name: transformers" in (out / "4-distill" / "model" / "README.md").read_text()
    left = {p.suffix for p in out.rglob("*") if p.is_file()}
    assert not left & {".bin", ".pt", ".pkl", ".pth"}
    assert not (out / "4-distill" / "checkpoints").exists()


def test_the_random_twin_differs_in_nothing_but_its_start(finished):
    out, results, _ = finished
    twin, student = (out / p / "config.json" for p in ("5-evaluate/random/model", "4-distill/model"))
    assert json.loads(twin.read_text()) == json.loads(student.read_text())
    steps = [
        len((out / p / "metrics.jsonl").read_text().splitlines()) for p in ("4-distill", "5-evaluate/random")
    ]
    assert steps[0] == steps[1]
    assert results["models"]["random"]["held_out_loss"] != results["models"]["distilled"]["held_out_loss"]


def test_every_candidate_has_its_own_shape_and_a_trial(finished):
    out, *_ = finished
    candidates = json.loads((out / "2-choose" / "candidates.json").read_text())["candidates"]
    assert len({json.dumps(c["sizes"]) for c in candidates}) == len(candidates) >= 2
    assert [c["chosen"] for c in candidates] == [True] + [False] * (len(candidates) - 1)
    assert all(c["loss_after"] < c["loss_before"] for c in candidates)
    assert candidates[0]["loss_after"] == min(c["loss_after"] for c in candidates)


def test_by_default_every_cut_is_repaired_and_the_line_goes_through(recipe_file, tmp_path):
    recipe = load(recipe_file, CompressRecipe)
    recipe = recipe.model_copy(
        update={"trim": Trim(), "evaluate": recipe.evaluate.model_copy(update={"baseline": "none"})}
    )
    compress.run(recipe, out=tmp_path / "run")
    model = tmp_path / "run" / "3-trim" / "model"
    losses = json.loads((model / "mended.json").read_text())["kl_to_teacher"]
    assert losses["repaired"] < losses["cut"]
    before = {path: path.read_bytes() for path in model.glob("*.safetensors")}
    shutil.rmtree(tmp_path / "run" / "3-trim")
    compress.trim_stage(recipe, tmp_path / "run")
    assert {path: path.read_bytes() for path in model.glob("*.safetensors")} == before


def test_a_second_run_does_nothing_again(finished):
    out, first, recipe = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert compress.run(recipe, out=out) == first
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before


def test_a_changed_recipe_is_refused_before_anything_is_lost(finished):
    out, _, recipe = finished
    changed = recipe.model_copy(update={"seed": 5})
    kept = (out / "recipe.yaml").read_text()
    with pytest.raises(RunError, match="1-score: made with other inputs"):
        compress.run(changed, out=out)
    assert (out / "recipe.yaml").read_text() == kept


def test_a_folder_that_holds_something_else_is_refused(recipe_file, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter-1.txt").write_text("years of work")
    with pytest.raises(RunError, match="not a run"):
        compress.run(load(recipe_file, CompressRecipe), out=out)
    assert [p.name for p in out.iterdir()] == ["chapter-1.txt"]


def test_a_stage_asks_for_the_one_before(recipe_file, tmp_path):
    with pytest.raises(RunError, match="1-score has not finished"):
        compress.choose_stage(load(recipe_file, CompressRecipe), tmp_path / "run")


def damage_shard(teacher: Path) -> None:
    weights = teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def poison(teacher: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(teacher)


def remove_weights(teacher: Path) -> None:
    (teacher / "model.safetensors").unlink()


def remove_tokenizer(teacher: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (teacher / name).unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_shard, r"model\.safetensors"),
        (poison, r"up_proj"),
        (remove_weights, r"teacher"),
        (remove_tokenizer, r"tokenizer"),
    ],
)
def test_a_damaged_teacher_is_refused_by_name_before_any_training(
    recipe_file, teacher, tmp_path, damage, named
):
    damage(teacher)
    with pytest.raises(NiwakiError, match=named):
        compress.run(load(recipe_file, CompressRecipe), out=tmp_path / "run")
    assert not (tmp_path / "run" / "1-score" / DONE).exists()


def run_command(recipe_file: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "niwaki.cli", "run", str(recipe_file), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_kills_at_any_moment_change_no_byte(recipe_file, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    began = time.monotonic()
    process = run_command(recipe_file, undisturbed)
    assert process.wait() == 0, process.stderr.read().decode()
    took_s = time.monotonic() - began
    moments = random.Random(0)
    for _ in range(8):
        process = run_command(recipe_file, killed)
        try:
            process.wait(timeout=moments.uniform(0.4, 0.8) * took_s)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    process = run_command(recipe_file, killed)
    assert process.wait() == 0, process.stderr.read().decode()
    for name in RESULTS:
        expected, found = ((folder / name).read_bytes() for folder in (undisturbed, killed))
        if name.endswith(".jsonl"):
            expected, found = (
                [
                    {k: v for k, v in json.loads(line).items() if k != "tokens_per_s"}
                    for line in lines.splitlines()
                ]
                for lines in (expected, found)
            )
        assert expected == found, name


@pytest.mark.parametrize("stage", ["1-score", "2-choose", "3-trim", "4-distill"])
def test_a_stage_begun_and_not_done_is_finished_to_the_same_bytes(finished, tmp_path, stage):
    out, _, recipe = finished
    again = tmp_path / "again"
    shutil.copytree(out, again)
    mark = again / stage / DONE
    mark.rename(mark.with_name("BEGUN"))
    compress.run(recipe, out=again)
    for name in (
        "4-distill/model/model.safetensors",
        "2-choose/candidates.json",
        "1-score/scores.safetensors",
    ):
        assert (again / name).read_bytes() == (out / name).read_bytes()
