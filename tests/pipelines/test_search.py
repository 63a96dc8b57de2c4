"""The search on a tiny teacher: halving costs no byte of a survivor, limits and devices are kept to."""

import json
import shutil

import pytest

from niwaki.errors import BudgetError
from niwaki.ground.run import DONE
from niwaki.pipelines import compress, trials
from niwaki.pipelines.plan import plan
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load

from .conftest import write_recipe


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """A recipe, and a run of it that is scored."""
    folder = tmp_path_factory.mktemp("scored")
    recipe = load(write_recipe(folder, trained), CompressRecipe)
    compress.score_stage(recipe, folder / "run")
    return recipe, folder / "run"


@pytest.fixture
def choosing(scored, tmp_path):
    """Choose with changes to the recipe, in a copy of the scored run; returns candidates.json."""
    recipe, run = scored

    def choose(name="run", **changes):
        out = tmp_path / name
        if not out.exists():
            shutil.copytree(run, out)
        compress.choose_stage(changed(recipe, **changes), out)
        return json.loads((out / "2-choose" / "candidates.json").read_text())

    return choose


def changed(recipe, **changes):
    content = recipe.model_dump(mode="json")
    content["choose"] |= {"tolerance": "40%"} | changes
    return CompressRecipe.model_validate(content)


SERVING = {"batch": 1, "prompt_tokens": 16, "new_tokens": 4}


def test_a_survivors_curve_is_that_of_the_full_trial(choosing, capsys):
    full, halved = choosing("full"), choosing("halved", halving=1)
    assert len(full["candidates"]) == 4
    ends = {json.dumps(c["sizes"]): c for c in full["candidates"]}
    survivors = [c for c in halved["candidates"] if c["stopped"] is None]
    assert len(survivors) == 2
    for survivor in survivors:
        twin = ends[json.dumps(survivor["sizes"])]
        assert (survivor["curve"], survivor["loss_after"]) == (twin["curve"], twin["loss_after"])
    for stopped in halved["candidates"][2:]:
        twin = ends[json.dumps(stopped["sizes"])]
        assert stopped["curve"] == twin["curve"][: len(stopped["curve"])]
        assert stopped["num_steps"] == twin["num_steps"] // 2
        assert "2 of 4 had less" in stopped["stopped"]
    assert full["trial_tokens"] == {"trained": 4 * 512, "saved": 0}
    assert halved["trial_tokens"] == {"trained": 3 * 512, "saved": 512}
    assert "saved 512" in capsys.readouterr().out


def test_a_search_killed_inside_a_rung_ends_with_the_same_bytes(scored, choosing, tmp_path, monkeypatch):
    _, run = scored
    choosing("straight", halving=1)
    shutil.copytree(run, tmp_path / "killed")
    real, calls = trials.distill, []

    def killed_in_the_fourth(student, *args, out, **options):
        calls.append(out)
        if len(calls) != 4:
            return real(student, *args, out=out, **options)
        real(student, *args, out=out, **options | {"until_step": 3})
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "distill", killed_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        choosing("killed", halving=1)
    assert not (tmp_path / "killed" / "2-choose" / DONE).exists()
    choosing("killed", halving=1)
    for name in ("candidates.json", "trials.jsonl"):
        straight, killed = (tmp_path / run / "2-choose" / name for run in ("straight", "killed"))
        assert straight.read_bytes() == killed.read_bytes(), name
    assert not (tmp_path / "killed" / "2-choose" / "trials").exists()


def test_candidates_carry_ranks_costs_and_fronts(choosing):
    found = choosing(device="h100", serving=SERVING)
    assert found["settled"]["steps"][0] == 0
    assert len(found["settled"]["ranks"][-1]) == 4
    sizes = found["candidates"][0]["sizes"]
    assert (
        found["candidates"][0]["kv_cache_bytes"] == 2 * 20 * sizes["layer"] * sizes["kv"] * sizes["dim"] * 2
    )
    assert all(0 < c["latency_s"] <= found["teacher"]["latency_s"] for c in found["candidates"])
    assert set(found["pareto"]) == {"num_parameters", "kv_cache_bytes", "latency_s"}
    for front in found["pareto"].values():
        assert 0 in front["front"], "the least loss is on every front"


def test_a_latency_is_measured_once_and_decides_who_is_tried(choosing, tmp_path, monkeypatch):
    timed = []

    def by_hidden(models, request):
        timed.append({name: model.config.hidden_size for name, model in models.items()})
        assert (request.batch, request.prompt_tokens, request.new_tokens) == (1, 16, 4)
        return {name: model.config.hidden_size / 1000 for name, model in models.items()}

    monkeypatch.setattr("niwaki.pipelines.stopwatch.latencies_s", by_hidden)
    options = {"device": "here", "limits": {"latency": "60%"}, "serving": SERVING}
    found = choosing(**options)
    assert {c["sizes"]["hidden"] for c in found["candidates"]} == {16}
    assert all(c["latency_s"] == pytest.approx(0.016) for c in found["candidates"])
    assert found["teacher"]["latency_s"] == 0.032
    num_timed = len(timed)
    (tmp_path / "run" / "2-choose" / DONE).rename(tmp_path / "run" / "2-choose" / "BEGUN")
    assert choosing(**options) == found
    assert len(timed) == num_timed


def test_limits_that_no_shape_keeps_are_found_before_any_work(scored):
    recipe, run = scored
    strict = changed(recipe, limits={"kv_cache": "99%"}, serving=SERVING)
    found = plan(strict, out=run, flops_per_s=1e9)
    assert isinstance(found.problems[0], BudgetError)
    assert "kv_cache at most" in found.problems[0].message
    assert plan(changed(recipe, limits={"kv_cache": "100%"}), out=run, flops_per_s=1e9).problems[0].message
