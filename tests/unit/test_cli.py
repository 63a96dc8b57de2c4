"""The command line: verbs reach their stages, mistakes are two lines and exit code 2."""

import json
import math
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

import niwaki
from niwaki import __version__
from niwaki.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, app
from niwaki.errors import BudgetError, NiwakiError
from niwaki.recipe import family
from niwaki.recipe.compress import CompressRecipe, starter
from niwaki.recipe.kinds import load_recipe
from niwaki.recipe.load import load
from niwaki.recipe.write import dump

SOURCE = str(Path(niwaki.__file__).parents[1])
STAGES = ("score", "choose", "trim", "distill", "evaluate")


@pytest.fixture
def pipeline(monkeypatch):
    """A compress pipeline that notes what it is asked to do, and may fail with `.failure`."""
    fake = types.SimpleNamespace(calls=[], failure=None, results=None)

    def noting(name):
        def stage(*arguments, **named):
            fake.calls.append((name, *arguments, *named.values()))
            if fake.failure is not None:
                raise fake.failure
            print("a table for people")
            return fake.results

        return stage

    module = types.ModuleType("niwaki.pipelines.compress")
    for name in ("run", "report", *(f"{stage}_stage" for stage in STAGES)):
        setattr(module, name, noting(name))
    monkeypatch.setitem(sys.modules, "niwaki.pipelines.compress", module)
    monkeypatch.setattr("niwaki.pipelines.compress", module, raising=False)
    return fake


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NIWAKI_TRACEBACK", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(dump(starter()))
    return path


def test_version(call):
    assert call("--version").output == f"niwaki {__version__}\n"


def test_new_writes_a_recipe_that_reads_back_and_never_overwrites(call, tmp_path):
    assert call("new", "compress").exit_code == 0
    assert load(tmp_path / "compress.yaml", CompressRecipe) == starter()
    (tmp_path / "compress.yaml").write_text("mine")
    again = call("new", "compress")
    assert again.exit_code == EXIT_USER_ERROR
    assert "already there" in again.stderr
    assert (tmp_path / "compress.yaml").read_text() == "mine"
    assert call("new", "compress", "other.yaml").exit_code == 0
    assert call("new", "compress", "no/such/folder.yaml").exit_code == EXIT_USER_ERROR
    assert call("new", "family").exit_code == 0
    assert load_recipe(tmp_path / "family.yaml") == family.starter()
    unknown = call("new", "compres")
    assert "Did you mean 'compress'?" in unknown.stderr
    assert "Kinds: compress, family" in unknown.stderr


@pytest.mark.parametrize(
    "verb, function", [("run", "run"), ("eval", "evaluate_stage"), *((s, f"{s}_stage") for s in STAGES[:4])]
)
def test_a_verb_reaches_its_stage(call, pipeline, recipe, verb, function):
    assert call(verb, recipe).exit_code == 0
    assert call(verb, recipe, "--out", "elsewhere").exit_code == 0
    assert pipeline.calls == [
        (function, starter(), Path("runs/mine")),
        (function, starter(), Path("elsewhere")),
    ]


@pytest.fixture
def family_pipeline(monkeypatch):
    """A family pipeline that notes what it is asked to do."""
    calls = []
    module = types.ModuleType("niwaki.pipelines.family")
    module.run = lambda recipe, out: calls.append(("run", recipe, out))
    module.report = lambda out: calls.append(("report", out))
    monkeypatch.setitem(sys.modules, "niwaki.pipelines.family", module)
    monkeypatch.setattr("niwaki.pipelines.family", module, raising=False)
    return calls


def test_the_kind_of_a_recipe_says_what_runs(call, pipeline, family_pipeline, tmp_path):
    (tmp_path / "fam").mkdir()
    (tmp_path / "fam" / "recipe.yaml").write_text(dump(family.starter()))
    assert call("run", "fam/recipe.yaml", "--out", "here").exit_code == 0
    assert call("run", "fam").exit_code == 0
    assert call("report", "fam").exit_code == 0
    assert family_pipeline == [
        ("run", family.starter(), Path("here")),
        ("run", family.starter(), Path("fam")),
        ("report", Path("fam")),
    ]
    stage = call("distill", "fam")
    assert stage.exit_code == EXIT_USER_ERROR
    assert "such as fam/1-50pct" in stage.stderr
    assert pipeline.calls == []


def test_a_kind_that_there_is_not_is_named(call, pipeline, recipe):
    recipe.write_text(recipe.read_text().replace("kind: compress", "kind: famly"))
    for verb in ("run", "check", "trim"):
        result = call(verb, recipe)
        assert result.exit_code == EXIT_USER_ERROR
        assert "Did you mean 'family'?" in result.stderr


def test_check_plans_a_family_and_fails_when_there_are_problems(call, tmp_path):
    text = dump(family.starter())
    (tmp_path / "good.yaml").write_text(text)
    (tmp_path / "bad.yaml").write_text(text.replace("to: 25%", "to: 60%"))
    good, bad = (call("check", f"{name}.yaml", "--gflops", 1) for name in ("good", "bad"))
    assert good.exit_code == 0
    assert "2-25pct  previous  teacher" in good.stdout
    assert "times cheaper than training each model from scratch on 15,900,000 tokens" in good.stdout.replace(
        "\n", " "
    )
    assert bad.exit_code == EXIT_USER_ERROR
    assert "member 2" in bad.stderr


def test_a_run_directory_stands_for_its_recipe(call, pipeline, recipe, tmp_path):
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    recipe.rename(run / "recipe.yaml")
    assert call("distill", "runs/demo").exit_code == 0
    assert call("report", "runs/demo").exit_code == 0
    assert pipeline.calls == [
        ("distill_stage", starter(), Path("runs/demo")),
        ("report", Path("runs/demo")),
    ]


def test_the_recipe_may_name_its_run_directory(call, pipeline, recipe):
    recipe.write_text(dump(starter().model_copy(update={"out": "kept/here"})))
    call("score", recipe)
    assert pipeline.calls[0][2] == Path("kept/here")


def test_mistakes_are_a_message_and_a_remedy(call, pipeline, recipe):
    pipeline.failure = BudgetError("No shape has 10 parameters.", "Ask for 50%.")
    result = call("run", recipe)
    assert result.exit_code == EXIT_USER_ERROR
    assert result.stderr == "No shape has 10 parameters.\nAsk for 50%.\n"
    assert result.stdout == ""


def test_what_niwaki_warns_of_is_a_note_and_others_keep_their_place(call, pipeline, recipe, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back after the test
    call("run", str(recipe))
    own, others = str(Path(niwaki.__file__).parent / "pruning" / "choose.py"), "/elsewhere/library.py"
    assert warnings.formatwarning("Too close.", UserWarning, own, 70) == "Note: Too close.\n"
    assert warnings.formatwarning("Old.", DeprecationWarning, others, 3).startswith(f"{others}:3: Deprec")


def test_colour_is_for_terminals_and_not_against_the_will_of_the_user(call, pipeline, recipe, monkeypatch):
    pipeline.failure = BudgetError("No.", "Yes.")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert call("run", recipe).stderr == "\x1b[31mNo.\x1b[0m\nYes.\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert call("run", recipe).stderr == "No.\nYes.\n"


def test_json_is_all_there_is_on_stdout(call, pipeline, recipe):
    pipeline.results = {"models": {"distilled": {"loss": math.nan, "path": Path("x")}}}
    result = call("run", recipe, "--json")
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {
        "out": "runs/mine",
        "results": {"models": {"distilled": {"loss": None, "path": "x"}}},
    }
    assert "a table for people" in result.stderr
    assert "a table for people" in call("run", recipe).stdout


def test_json_of_a_plan_has_its_problems_and_costs(call, recipe, tmp_path):
    good = json.loads(call("check", recipe, "--gflops", 1, "--json").stdout)
    assert good["problems"] == []
    assert {stage["name"] for stage in good["stages"]} >= {"score", "trim", "distill"}
    assert good["duration_s"] == pytest.approx(sum(stage["duration_s"] for stage in good["stages"]))
    assert all(c["num_parameters"] < good["teacher"]["num_parameters"] for c in good["candidates"])
    recipe.write_text(dump(starter().model_copy(update={"teacher": str(tmp_path / "nowhere")})))
    bad = call("check", recipe, "--gflops", 1, "--json")
    assert bad.exit_code == EXIT_USER_ERROR
    assert "does not exist" in json.loads(bad.stdout)["problems"][0]["message"]
    recipe.write_text(dump(family.starter()))
    members = json.loads(call("check", recipe, "--gflops", 1, "--json").stdout)["members"]
    assert list(members) == list(family.starter().folders)


def test_json_of_verify_and_families(call):
    verdict = call("verify", "The answer is 7.", "7", "--json")
    assert json.loads(verdict.stdout)["correct"] is True
    assert json.loads(call("families", "--json").stdout)["llama"]["axes"][:2] == ["layer", "hidden"]


def test_env_says_what_a_bug_report_needs_and_no_secret(call, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NIWAKI_CACHE", str(Path.home() / "cache"))
    found = json.loads(call("env", "--json").stdout)
    assert found["niwaki"] == __version__
    # What is installed may name its build ("+cu130") in one of the two only.
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["cache"] == found["variables"]["NIWAKI_CACHE"] == "~/cache"
    text = call("env").stdout
    assert all(name.removesuffix("_bytes") in text for name in found)
    assert "hf_secret" not in text
    assert str(Path.home()) not in text


def test_every_verb_that_prints_a_result_takes_json():
    """Stages write files and print nothing; `new` names a command; `reward` and `mask` have verbs below."""
    silent = {"new", "correct", "score", "choose", "trim", "distill", "warm-up", "rl", "reward", "mask"}
    takes = {name: any("--json" in p.opts for p in v.params) for name, v in get_command(app).commands.items()}
    assert {name for name, does in takes.items() if not does} == silent


def test_completion_knows_verbs_and_kinds():
    def completed(words):
        asked = {
            "_NIWAKI_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        done = subprocess.run(
            [sys.executable, "-c", "import sys; sys.argv[0] = 'niwaki'; from niwaki.cli import main; main()"],
            env=asked | {"_NIWAKI_COMPLETE": "complete_bash", "PYTHONPATH": SOURCE},
            capture_output=True,
            text=True,
        )
        return done.stdout.split()

    assert "compress" in completed("niwaki com")
    assert completed("niwaki new fam") == ["family"]


def test_a_traceback_on_request(call, pipeline, recipe, monkeypatch):
    pipeline.failure = BudgetError("No.", "Yes.")
    monkeypatch.setenv("NIWAKI_TRACEBACK", "1")
    assert isinstance(call("run", recipe).exception, NiwakiError)


def test_faults_of_niwaki_keep_their_traceback(call, pipeline, recipe):
    pipeline.failure = ZeroDivisionError()
    result = call("run", recipe)
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_says_how_to_go_on(call, pipeline, recipe, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["niwaki", "run", "my recipe.yaml"])
    pipeline.failure = KeyboardInterrupt()
    result = call("run", recipe)
    assert result.exit_code == EXIT_INTERRUPTED
    assert result.stderr.endswith("niwaki run 'my recipe.yaml'\n")


def test_a_broken_recipe_stops_every_verb(call, pipeline, recipe):
    recipe.write_text(recipe.read_text().replace("learning_rate", "lerning_rate"))
    for verb in ("run", "check", "score", "choose", "trim", "distill", "eval"):
        result = call(verb, recipe)
        assert result.exit_code == EXIT_USER_ERROR
        assert "Did you mean 'learning_rate'?" in result.stderr
    assert pipeline.calls == []


def test_eval_tells_models_from_runs(call, pipeline, recipe, tmp_path, monkeypatch):
    asked = []
    measuring = types.ModuleType("niwaki.pipelines.measure")
    measuring.measure = lambda folder, **named: asked.append((folder, named))
    monkeypatch.setitem(sys.modules, "niwaki.pipelines.measure", measuring)
    assert "--data" in call("eval", recipe, "--data", "text").stderr
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "nothing to measure" in call("eval", "model").stderr
    assert call("eval", "model", "--data", "text", "--tasks", "a, b").exit_code == 0
    assert asked == [
        (Path("model"), {"data": "text", "tasks": ("a", "b"), "include_path": None, "out": None})
    ]


def test_check_prints_the_plan_and_fails_when_there_are_problems(call, recipe, tmp_path):
    recipe.write_text(dump(starter().model_copy(update={"teacher": str(tmp_path / "nowhere")})))
    result = call("check", recipe, "--gflops", 1)
    assert result.exit_code == EXIT_USER_ERROR
    assert "does not exist" in result.stderr


def test_compress_makes_the_recipe(call, pipeline, monkeypatch):
    quick = types.ModuleType("niwaki.pipelines.quick")
    quick.recipe_for = lambda model, **named: (model, named)
    monkeypatch.setitem(sys.modules, "niwaki.pipelines.quick", quick)
    words = {"to": "50%", "tokens": "1M", "data": "stdlib"}
    flags = [part for name, value in words.items() for part in (f"--{name}", value)]
    assert call("compress", "models/big", *flags).exit_code == 0
    assert call("compress", "models/big", *flags, "--out", "here").exit_code == 0
    assert pipeline.calls == [
        ("run", ("models/big", words), Path("runs/big-50pct")),
        ("run", ("models/big", words), Path("here")),
    ]
