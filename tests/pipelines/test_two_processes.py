"""`niwaki run` as two processes: the curves, scores and losses of one, and nothing lost when one dies."""

import json
import signal
import time

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from niwaki.ground import processes
from niwaki.pipelines import compress
from niwaki.pipelines.plan import plan
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load

from ..launch import end_all, start_each, torchrun

CURVES = ("4-distill/metrics.jsonl", "5-evaluate/random/metrics.jsonl")
TOLERANCE = 1e-4


def records(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_s"} for line in lines]


def assert_close(found, expected, where=""):
    """Equal, but for the rounding of numbers."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name, value in expected.items():
            assert_close(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_close(found[number], value, f"{where}[{number}]")
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=1e-7, err_msg=where)
    else:
        assert found == expected, where


def assert_same_run(found, expected):
    files = {
        run: sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file()) for run in (found, expected)
    }
    assert files[found] == files[expected]
    for curve in CURVES:
        assert_close(records(found / curve), records(expected / curve), curve)
    for name in ("1-score/scores.safetensors", "1-score/importance.safetensors"):
        sums, alone = load_file(found / name), load_file(expected / name)
        assert list(sums) == list(alone)
        for key, value in alone.items():
            np.testing.assert_allclose(sums[key], value, rtol=TOLERANCE, err_msg=key)
    for name in ("2-choose/candidates.json", "5-evaluate/results.json", "5-evaluate/paired.json"):
        assert_close(json.loads((found / name).read_text()), json.loads((expected / name).read_text()), name)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ddp", "fsdp2"])
def test_two_processes_make_the_run_of_one_and_print_once(finished, tmp_path, sharded):
    alone, *_ = finished
    command = ["-m", "niwaki", "run", str(alone.parent / "recipe.yaml"), "--out", str(tmp_path / "run")]
    done = torchrun(*command, processes=2, sharded=sharded)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same_run(tmp_path / "run", alone)
    assert done.stdout.count("held-out loss") == 1
    assert done.stderr.count("distil: 32/32") == 1


def killed_in_training(recipe_file, out, folder, *, processes):
    """Kill the last process in the middle of the distillation; (exit code, errors) of the first."""
    started = start_each(
        ["-m", "niwaki", "run", str(recipe_file), "--out", str(out)], folder, processes=processes
    )
    try:
        while not any((out / "4-distill" / "checkpoints").glob("step-*")) and started[0].poll() is None:
            time.sleep(0.005)
        started[-1].send_signal(signal.SIGKILL)
        return started[0].wait(timeout=120), (folder / "0.err").read_text()
    finally:
        end_all(started)


def test_a_killed_process_ends_the_other_with_a_message_and_one_goes_on(finished, tmp_path):
    alone, _, recipe = finished
    out = tmp_path / "run"
    code, errors = killed_in_training(alone.parent / "recipe.yaml", out, tmp_path, processes=2)
    assert code == 2
    assert "Traceback" not in errors
    assert "Another process of the run ended" in errors
    assert "The same command goes on from here" in errors
    compress.run(recipe, out=out)
    assert_same_run(out, alone)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ddp", "fsdp2"])
def test_two_processes_go_on_where_two_were_killed(finished, tmp_path, sharded):
    alone, *_ = finished
    recipe, out = alone.parent / "recipe.yaml", tmp_path / "run"
    assert killed_in_training(recipe, out, tmp_path, processes=2)[0] == 2
    done = torchrun("-m", "niwaki", "run", str(recipe), "--out", str(out), processes=2, sharded=sharded)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same_run(out, alone)


def test_an_error_of_the_main_process_is_said_once_and_ends_all(recipe_file, tmp_path):
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["choose"]["to"] = "0.1%"
    recipe_file.write_text(yaml.safe_dump(recipe))
    score = ["-m", "niwaki", "choose", str(recipe_file), "--out", str(tmp_path / "run")]
    started = start_each(score, tmp_path, processes=2)  # the stage before is missing
    try:
        assert [process.wait(timeout=120) for process in started] == [2, 2]
    finally:
        end_all(started)
    errors = [(tmp_path / f"{number}.err").read_text() for number in range(2)]
    assert "".join(errors).count("1-score has not finished") == 1
    assert not any("Traceback" in each for each in errors)


def test_a_batch_that_processes_cannot_share_out_is_known_before_work(recipe_file, tmp_path, monkeypatch):
    recipe = load(recipe_file, CompressRecipe)
    assert not plan(recipe, out=tmp_path / "run", flops_per_s=1.0).problems
    monkeypatch.setattr(processes, "count", lambda: 3)
    problems = plan(recipe, out=tmp_path / "run", flops_per_s=1.0).problems
    assert [problem.message for problem in problems] == [
        "distill.batch_tokens makes 4 rows a step, which do not divide into 3 process(es) x micro_rows 2."
    ]
