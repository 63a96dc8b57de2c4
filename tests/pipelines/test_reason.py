"""The line of CrossThink on a model of 40,000 parameters: stages, resume, refusals, report."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.errors import NiwakiError, RunError
from niwaki.ground.model import load_model
from niwaki.ground.processes import supposing
from niwaki.pipelines import reason
from niwaki.pipelines.reason_plan import plan
from niwaki.recipe.kinds import parse_recipe
from niwaki.reporting.reason_page import write_reason_report
from niwaki.verify.question import read_questions

pytest.importorskip("trl")

RECIPE = """
kind: reason
model: fresh
prompt: bare-1
fresh: {hidden: 32, ffn: 64, layers: 1, vocab: 320}
curate:
  near_duplicates: null
  sources:
    - {name: numbers, adapter: generated, rows: 40, tasks: [largest]}
    - {name: logic, adapter: generated, rows: 40, tasks: [truth_value]}
  benchmarks:
    - {name: numbers-test, adapter: generated, rows: 6, split: test, tasks: [largest]}
    - {name: logic-test, adapter: generated, rows: 6, split: test, tasks: [truth_value]}
  blend: {rows: 40, groups: [{share: 50%, sets: [numbers]}, {share: 50%, sets: [logic]}]}
  workers: 1
warm_up: {steps: 3, batch_rows: 8, micro_rows: 8, max_tokens: 160, learning_rate: 1e-3}
rl:
  steps: 2
  prompts_per_step: 2
  num_generations: 4
  micro_rollouts: 8
  max_prompt_tokens: 120
  max_completion_tokens: 12
  learning_rate: 1e-3
  precision: float32
evaluate: {samples: 2, seeds: 2, pass_at: [1, 4]}
"""


def recipe(**replaced):
    text = RECIPE
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    return parse_recipe(text, name="test")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("reason") / "run"
    return out, reason.run(recipe(), out=out)


def test_every_stage_leaves_files_that_people_and_tools_read(done):
    out, results = done
    train = list(read_questions(out / "2-blend" / "train.jsonl"))
    assert len(train) == 40
    assert {q.source for q in train} == {"numbers", "logic"}
    for folder in ("3-warm-up", "4-rl"):
        load_model(out / folder / "model")
    assert list(results["models"]) == ["warmed", "trained"]
    assert set(results["models"]["trained"]["benchmarks"]) == {"numbers-test", "logic-test"}
    assert set(results["models"]["trained"]["domains"]) == {"comparison", "logic"}
    assert results["models"]["trained"]["all"]["samples"] == 12 * 4
    assert set(results["gain"]) == {"all", "comparison", "logic"}
    kept = {p.suffix for p in out.rglob("*") if p.is_file()} - {""}
    assert kept <= {".json", ".jsonl", ".yaml", ".html", ".safetensors", ".jinja", ".txt", ".md"}


def test_the_card_shows_what_training_changed_and_states_no_licence_of_its_own(done):
    out, results = done
    card = (out / "4-rl" / "model" / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| Accuracy"))
    assert f"{100 * results['models']['trained']['all']['accuracy']['mean']:.1f}" in row
    assert "license" not in yaml.safe_load(card.split("---")[1])


def test_a_finished_run_is_not_done_again(done):
    out, results = done
    before = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    assert reason.run(recipe(), out=out) == results
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}


def test_snapshots_go_with_the_training_that_they_are_of(done, tmp_path, monkeypatch):
    """Also where a kill comes between the two: nothing is trained again."""
    out, results = done
    assert not list(out.rglob("checkpoints"))
    assert not list(out.rglob("step-*"))
    shutil.copytree(out, tmp_path / "run")
    for stage in (reason.WARM_UP, reason.RL):
        (tmp_path / "run" / stage / "DONE").rename(tmp_path / "run" / stage / "BEGUN")
        (tmp_path / "run" / stage / ".checkpoints.discarded" / "step-0000001").mkdir(parents=True)
    for name in ("warm_up", "train_rl"):
        monkeypatch.setattr(reason, name, lambda *arguments, **options: pytest.fail("it trains again"))
    assert reason.run(recipe(), out=tmp_path / "run") == results
    assert not list((tmp_path / "run").rglob("step-*"))


def test_another_reward_does_not_go_on_with_this_run(done):
    out, _ = done
    with pytest.raises(RunError, match=r"4-rl: made with other inputs \(changed: reward\)"):
        reason.run(recipe(r=("kind: reason", "kind: reason\nreward: {rule: sum}")), out=out)


def test_a_killed_run_ends_like_an_undisturbed_one(done, tmp_path, monkeypatch):
    out, results = done
    real = reason.train_rl

    def killed(*args, **options):
        real(*args, **{**options, "until_step": 1})
        raise KeyboardInterrupt

    monkeypatch.setattr(reason, "train_rl", killed)
    with pytest.raises(KeyboardInterrupt):
        reason.run(recipe(), out=tmp_path / "run")
    monkeypatch.setattr(reason, "train_rl", real)
    assert reason.run(recipe(), out=tmp_path / "run") == results
    ours, theirs = ((p / "4-rl" / "metrics.jsonl").read_text() for p in (tmp_path / "run", out))
    assert ours == theirs


def test_the_report_escapes_what_a_model_wrote(done):
    out, _ = done
    rollouts = out / "4-rl" / "rollouts.jsonl"
    kept = rollouts.read_text()
    row = json.loads(kept.splitlines()[0])
    row |= {"completion": "<script>alert(1)</script>", "question": "<b>?", "extracted": "<i>"}
    try:
        rollouts.write_text(json.dumps(row) + "\n")
        page = write_reason_report(out).read_text()
    finally:
        rollouts.write_text(kept)
        write_reason_report(out)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>?" not in page


def test_the_report_says_what_has_not_run(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    page = write_reason_report(tmp_path).read_text()
    for words in ("Not evaluated yet", "Not curated yet", "Not trained yet", "nothing has finished"):
        assert words in page
    with pytest.raises(RunError, match="is not a run directory"):
        write_reason_report(tmp_path / "nothing")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("model: fresh\n", "model: /no/such/model\n", "fresh is for `model: fresh`"),
        ("warm_up: {steps: 3, ", "warm_down: {steps: 3, ", "Did you mean 'warm_up'"),
        ("micro_rollouts: 8", "micro_rollouts: 3", "is no multiple of micro_rollouts"),
        ("samples: 2, seeds: 2", "temperature: 0, samples: 2, seeds: 2", "temperature 0 gives one answer"),
    ],
)
def test_recipes_that_cannot_work_are_refused_at_once(old, new, words):
    with pytest.raises(NiwakiError, match=words):
        recipe(r=(old, new))


def test_a_fresh_model_needs_a_warm_up():
    text = "\n".join(line for line in RECIPE.splitlines() if not line.startswith("warm_up"))
    with pytest.raises(NiwakiError, match="a fresh model writes nothing right"):
        parse_recipe(text, name="test")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("rl:\n", "reward: {models: [{model: /no/such/model}]}\nrl:\n", "/no/such/model"),
        ("  steps: 2\n", "  steps: 2\n  generate_with: vllm\n", "there is no GPU here"),
        ("adapter: generated, rows: 40, tasks: [largest]", "adapter: gsm9k", "no adapter 'gsm9k'"),
    ],
)
def test_a_plan_finds_problems_before_the_work(tmp_path, old, new, words, capsys):
    problems = reason.check(recipe(r=(old, new)), out=tmp_path / "run", flops_per_s=1e9)
    assert any(words in problem.message for problem in problems)
    assert not (tmp_path / "run").exists()


def test_a_plan_without_problems_shows_sets_and_costs(tmp_path, capsys):
    assert not reason.check(recipe(), out=tmp_path / "run", flops_per_s=1e9)
    shown = capsys.readouterr().out
    for words in ("numbers-test", "warm-up", "evaluate", "4 questions asked", "Nothing stands in the way"):
        assert words in shown


def test_processes_share_time_and_sharded_ones_share_weights(tmp_path):
    """The model is whole before and after the training, and while it samples."""
    found = {}
    for name, options in {"one": (1, False), "ddp": (2, False), "fsdp2": (2, True)}.items():
        with supposing(options[0], is_sharded=options[1]):
            planned = plan(recipe(r=("micro_rollouts: 8", "micro_rollouts: 4")), out=tmp_path / "run")
        assert not [problem for problem in planned.problems if "FSDP2" in problem.message]
        found[name] = {stage.name: stage for stage in planned.stages}
    for stage in ("warm-up", "rl"):
        one, ddp, fsdp2 = (found[name][stage] for name in ("one", "ddp", "fsdp2"))
        assert ddp.flops == fsdp2.flops == one.flops / 2
        assert ddp.memory_bytes == one.memory_bytes
        saved = ddp.memory_bytes - fsdp2.memory_bytes
        assert saved == pytest.approx((16 / 2 - 4) * planned.num_parameters)
    assert found["ddp"]["evaluate"] == found["one"]["evaluate"]


def test_vllm_is_refused_for_a_model_in_parts_before_the_work(tmp_path):
    text = ("  steps: 2\n", "  steps: 2\n  generate_with: vllm\n")
    with supposing(2, is_sharded=True):
        problems = plan(recipe(r=text), out=tmp_path / "run").problems
    assert any("vllm, which does not sample under FSDP2" in problem.message for problem in problems)


def test_a_model_that_exists_is_planned_with_its_context(done, tmp_path):
    out, _ = done
    model = out / "4-rl" / "model"
    text = RECIPE.replace("model: fresh", f"model: {model}").replace(
        "fresh: {hidden: 32, ffn: 64, layers: 1, vocab: 320}\n", ""
    )
    read = parse_recipe(text.replace("max_prompt_tokens: 120", "max_prompt_tokens: 4k"), name="test")
    problems = reason.check(read, out=tmp_path / "run", flops_per_s=1e9)
    assert any("the model reads 161" in problem.message for problem in problems)
    assert not reason.check(parse_recipe(text, name="test"), out=tmp_path / "run", flops_per_s=1e9)


def test_any_model_can_be_asked(done, tmp_path):
    out, results = done
    files = [str(out / "1-curate" / "benchmarks" / f"{name}-test.jsonl") for name in ("numbers", "logic")]
    command = ["answer", str(out / "4-rl" / "model"), *files, "--out", str(tmp_path / "asked")]
    command += ["--samples", "2", "--seeds", "2", "--max-tokens", "12", "--prompt", "bare-1"]
    shown = CliRunner().invoke(app, [*command, "--batch-rows", "128"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    asked = json.loads((tmp_path / "asked" / "results.json").read_text())
    trained = results["models"]["trained"]
    assert asked["all"]["accuracy"] == trained["all"]["accuracy"]
    assert "numbers-test" in shown.output


def test_verbs_are_for_reason_recipes(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("kind: compress\nteacher: sapling\nchoose: {to: 50%}\n")
    shown = CliRunner().invoke(app, ["rl", str(file)])
    assert shown.exit_code == 2
    assert "of kind compress" in shown.output


def test_the_starter_is_planned_without_problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(app, ["new", "reason"]).exit_code == 0
    shown = runner.invoke(app, ["check", "reason.yaml", "--gflops", "10"])
    assert shown.exit_code == 0, shown.output
    assert not Path("runs").exists()
