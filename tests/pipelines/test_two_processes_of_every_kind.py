"""Masks, reward models and GRPO as two processes: the same curves as one."""

import json
import shutil

import pytest
import yaml

from niwaki.pipelines.kinds import pipeline_of
from niwaki.recipe.kinds import load_recipe

from ..launch import torchrun
from ..reward.conftest import recipe_of
from .test_reason import RECIPE as REASON
from .test_sparsify import write_sparsify_recipe
from .test_two_processes import assert_close, records

both = pytest.mark.parametrize(
    "sharded", [pytest.param(False, id="ddp"), pytest.param(True, id="fsdp2", marks=pytest.mark.slow)]
)


def run_both(recipe_file, folder, *, sharded=False):
    """The run of one process, in this one, and that of two."""
    recipe = load_recipe(recipe_file)
    pipeline_of(recipe.kind).run(recipe, out=folder / "one")
    command = ["-m", "niwaki", "run", str(recipe_file), "--out", str(folder / "two")]
    done = torchrun(*command, processes=2, sharded=sharded)
    assert done.returncode == 0, done.stderr[-4000:]
    files = [sorted(p.relative_to(run) for p in run.rglob("*")) for run in (folder / "one", folder / "two")]
    assert files[0] == files[1]


def assert_same_curves(folder, *stages):
    for stage in stages:
        assert_close(*(records(folder / run / stage / "metrics.jsonl") for run in ("two", "one")), stage)


@both
def test_masks(trained, tmp_path, sharded):
    learn = {"tokens": 2048, "batch_tokens": 128, "micro_rows": 2, "precision": "float32"}
    learn |= {"objective": "distill", "checkpointing": True, "save_every_steps": 5}
    recipe = write_sparsify_recipe(tmp_path / "given", trained, learn=learn)
    run_both(recipe, tmp_path, sharded=sharded)
    assert_same_curves(tmp_path, "2-learn")
    masks = [(tmp_path / run / "2-learn" / "learned.mask").read_bytes() for run in ("one", "two")]
    assert masks[0] == masks[1]


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_reward_models(trained, tmp_path, sharded):
    backbone = shutil.copytree(trained, tmp_path / "backbone")
    config = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    recipe = recipe_of(backbone, tmp_path).model_dump(mode="json")
    for section in ("regression", "preference"):
        recipe[section] |= {"micro_rows": 4, "checkpointing": True}
    shared = ("learning_rate", "batch_rows", "micro_rows", "warmup_steps", "precision", "checkpointing")
    recipe["justifier"] = {name: recipe["preference"][name] for name in shared} | {"written_tokens": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run_both(tmp_path / "recipe.yaml", tmp_path, sharded=sharded)
    assert_same_curves(tmp_path, "2-regress", "3-prefer", "9-justify")
    for result in ("4-extrapolate/expo.json", "7-calibrate/calibration.json", "8-evaluate/results.json"):
        assert_close(*(json.loads((tmp_path / run / result).read_text()) for run in ("two", "one")), result)
    judged = [
        json.loads((tmp_path / run / "9-justify" / "results.json").read_text()) for run in ("two", "one")
    ]
    assert_close(*judged)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_grpo_with_its_warm_up(tmp_path, sharded):
    pytest.importorskip("trl")
    text = REASON.replace("micro_rows: 8", "micro_rows: 4").replace("micro_rollouts: 8", "micro_rollouts: 4")
    (tmp_path / "recipe.yaml").write_text(text)
    run_both(tmp_path / "recipe.yaml", tmp_path, sharded=sharded)
    assert_same_curves(tmp_path, "3-warm-up")
    steps = [records(tmp_path / run / "4-rl" / "metrics.jsonl") for run in ("one", "two")]
    for name in ("step", "rollouts", "groups"):
        assert [step[name] for step in steps[0]] == [step[name] for step in steps[1]]
