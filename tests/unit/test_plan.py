"""A plan says from sizes alone what a run will cost, and finds what would stop it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, LlamaConfig, PreTrainedTokenizerFast

from niwaki.errors import (
    BudgetError,
    CheckpointError,
    DataError,
    EvaluationError,
    FamilyError,
    RecipeError,
    RunError,
)
from niwaki.pipelines.costs import Shape, Work, distill_flops, stage_costs
from niwaki.pipelines.inputs import task_folder
from niwaki.pipelines.plan import budget_of, plan, shape_of
from niwaki.pipelines.plan_table import in_bytes, in_words, show, show_families
from niwaki.pipelines.quick import recipe_for
from niwaki.recipe.compress import CompressRecipe, starter
from niwaki.sapling import TASK_FOLDER

LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
WIDTH_OF_THE_PAPER = {"to": {"low": "4.3B", "high": "4.6B"}, "grid": {"hidden": [3072], "ffn": [9216]}}


def save_teacher(folder, num_words=8, **changes):
    """A model folder without weights: config and tokenizer are all that a plan may read."""
    LlamaConfig(**{**LLAMA_8B, **changes}).save_pretrained(folder)
    words = {word: number for number, word in enumerate(["<eos>", *map(str, range(num_words - 1))])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def large_disk(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**12))


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path / "teacher")


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("1 2 3")
    return tmp_path / "text"


@pytest.fixture
def recipe(teacher, text):
    def build(**sections):
        content = {
            "kind": "compress",
            "teacher": str(teacher),
            "data": {"source": str(text), **sections.pop("data", {})},
            "choose": {"to": "50%", **sections.pop("choose", {})},
        }
        return CompressRecipe.model_validate(content | sections)

    return build


@pytest.fixture
def planned(recipe, tmp_path):
    def build(out=tmp_path / "run", **sections):
        return plan(recipe(**sections), out=out, flops_per_s=1e12)

    return build


def test_the_plan_of_the_paper_counts_its_models(planned):
    found = planned(choose=WIDTH_OF_THE_PAPER)
    assert found.problems == ()
    assert found.teacher.num_parameters == 8_030_261_248
    assert [shape.num_parameters for shape in found.candidates] == [4_512_746_496]
    assert found.bytes_per_weight == 2
    assert [stage.name for stage in found.stages] == ["score", "choose", "trim", "distill", "evaluate"]


def test_ranking_by_loss_costs_no_trials(planned):
    by_loss = planned(choose=WIDTH_OF_THE_PAPER | {"rank": "loss"}).stages[1]
    by_trial = planned(choose=WIDTH_OF_THE_PAPER).stages[1]
    assert by_trial.flops > 10 * by_loss.flops
    assert by_trial.memory_bytes > 3 * by_loss.memory_bytes


def test_planning_touches_nothing(planned, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    planned()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "choose, low, high",
    [
        ({"to": "50%"}, 475, 525),
        ({"to": "4k", "tolerance": "10%"}, 3600, 4400),
        ({"to": "8kB"}, 3800, 4200),
        ({"to": {"low": 700, "high": 850}}, 700, 850),
    ],
)
def test_every_form_of_size_is_a_budget(recipe, choose, low, high):
    budget = budget_of(recipe(choose=choose), num_parameters=1000, parameter_bytes=2)
    assert (budget.low, budget.high) == (low, high)


def test_only_visited_experts_and_no_lookup_work_on_a_token():
    from niwaki.ground.family import family_of

    mixture = AutoConfig.for_model(
        "mixtral", num_local_experts=8, num_experts_per_tok=2, tie_word_embeddings=False
    )
    family = family_of(mixture)
    sizes = family.axis_sizes(mixture)
    shape = shape_of(family, mixture, sizes)
    experts = 3 * sizes["layer"] * sizes["hidden"] * sizes["effn"]
    router = sizes["layer"] * sizes["hidden"]
    lookup = sizes["vocab"] * sizes["hidden"]
    assert shape.num_parameters - shape.num_active_parameters == 6 * (experts + router) + lookup


SIZES = {"layer": 4, "hidden": 64, "ffn": 128, "kv": 2, "group": 2, "dim": 16, "vocab": 512}
BIG = Shape(SIZES, num_parameters=100_000, num_active_parameters=90_000)
SMALL = Shape(SIZES | {"layer": 2}, num_parameters=50_000, num_active_parameters=40_000)
WORK = Work(
    sequence_length_tokens=32,
    calibration_rows=10,
    calibration_batch_rows=2,
    micro_rows=4,
    distill_tokens=1000,
    trial_tokens=100,
    num_candidates=3,
    evaluate_tokens=50,
    has_baseline=False,
)


def costs(**changes):
    work = Work(**{**vars(WORK), **changes})
    return {c.name: c for c in stage_costs(BIG, SMALL, work, bytes_per_weight=2, bytes_per_activation=4)}


def test_flops_are_two_a_weight_forward_and_six_with_backward():
    assert BIG.forward_flops(0) == 2 * 90_000
    assert distill_flops(BIG, SMALL, 0) == 2 * 90_000 + 6 * 40_000
    assert BIG.forward_flops(32) == 2 * 90_000 + 2 * 4 * 64 * 32


def test_costs_follow_what_the_recipe_asks_for():
    assert costs(distill_tokens=2000)["distill"].flops == 2 * costs()["distill"].flops
    trials = costs()["choose"].flops - costs(trial_tokens=0)["choose"].flops
    assert trials == pytest.approx(0.3 * costs()["distill"].flops)
    assert costs(trial_tokens=0)["choose"].flops == pytest.approx(3 * 50 * SMALL.forward_flops(32))
    assert (
        costs(has_baseline=True)["evaluate"].flops > costs()["evaluate"].flops + costs()["distill"].flops / 2
    )
    assert costs(micro_rows=8)["distill"].memory_bytes > costs()["distill"].memory_bytes
    assert costs()["trim"].read_bytes == 200_000
    assert costs()["trim"].written_bytes == 100_000
    assert costs()["distill"].memory_bytes > 200_000 + 16 * 50_000


def problem(found):
    assert len(found.problems) == 1, found.problems
    with pytest.raises(type(found.problems[0])):
        found.raise_problems()
    return found.problems[0]


def test_a_teacher_that_is_not_there(recipe, tmp_path):
    lost = recipe().model_copy(update={"teacher": str(tmp_path / "nowhere")})
    assert isinstance(problem(plan(lost, out=tmp_path / "run", flops_per_s=1e9)), CheckpointError)


def test_a_teacher_of_an_unknown_family(teacher, planned):
    AutoConfig.for_model("gpt2", vocab_size=8).save_pretrained(teacher)
    assert isinstance(planned().problems[0], FamilyError)


def test_a_teacher_without_tokenizer(teacher, planned):
    for file in teacher.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in problem(planned()).message


def test_a_tokenizer_that_is_too_large(teacher, planned):
    save_teacher(teacher, vocab_size=6)
    assert "its tokenizer has 8 tokens" in problem(planned()).message


@pytest.mark.parametrize("to", ["1%", "99.9%", "100MB", "9B"])
def test_a_budget_that_no_shape_reaches(planned, to):
    found = problem(planned(choose={"to": to, "tolerance": "0.01%"}))
    assert isinstance(found, BudgetError)
    assert "nearest" in found.message


def test_a_grid_that_the_teacher_cannot_take(planned):
    assert isinstance(problem(planned(choose={"grid": {"hidden": [5000]}})), RecipeError)


def test_rows_longer_than_the_context(teacher, planned):
    save_teacher(teacher, max_position_embeddings=1024)
    assert "1024" in problem(planned()).message


def test_data_that_is_missing_or_empty(planned, text):
    assert isinstance(problem(planned(data={"source": str(text / "no.jsonl")})), DataError)
    assert isinstance(problem(planned(data={"source": "my-text/"})), DataError)
    (text / "a.txt").write_text(" \n")
    assert "holds no text" in problem(planned()).message
    (text / "a.txt").unlink()
    assert isinstance(problem(planned()), DataError)


def test_a_column_that_is_not_in_the_table(planned, text):
    (text / "a.txt").unlink()
    (text / "a.jsonl").write_text('{"content": "words"}\n')
    assert "content" in problem(planned()).message
    assert planned(data={"text_column": "content"}).problems == ()


def test_an_out_that_holds_something_else(planned, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    assert planned().problems == ()
    (out / "thesis.tex").write_text("")
    assert "already holds files" in problem(planned()).message
    (out / "recipe.yaml").write_text("")
    assert planned().problems == ()
    assert isinstance(problem(planned(out=out / "thesis.tex")), RunError)


def test_more_bytes_than_the_disk_has(planned, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    assert "1.0 GB are free" in problem(planned()).message


def test_what_a_begun_run_holds_is_not_needed_again(planned, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    needed_bytes = planned().written_bytes
    with (tmp_path / "run" / "weights").open("wb") as sparse:
        sparse.truncate(needed_bytes)
    assert planned().problems == ()


def test_tasks_that_cannot_be_found(planned, tmp_path, monkeypatch):
    def refuse(tasks, include_path):
        raise EvaluationError(f"{tasks} in {include_path}", "Did you mean hellaswag?")

    monkeypatch.setattr("niwaki.evaluation.harness.find_tasks", refuse)
    assert planned().problems == ()
    assert problem(planned(evaluate={"tasks": ["helaswag"]})).message == f"('helaswag',) in {TASK_FOLDER}"
    assert "is not a folder" in problem(planned(evaluate={"include_path": str(tmp_path / "none")})).message


def test_the_bundled_task_is_found_unless_the_recipe_brings_its_own(recipe):
    assert task_folder(starter()) == TASK_FOLDER
    assert task_folder(recipe(evaluate={"include_path": "mine"})) == Path("mine")


def test_too_few_steps_are_noted(planned):
    assert planned(distill={"tokens": "2M"}).warnings[0].startswith("distill.tokens makes 8 steps")
    assert planned().warnings == ()


def test_the_plan_is_printed_with_its_problems(planned, tmp_path, capsys):
    show(planned(choose=WIDTH_OF_THE_PAPER))
    printed = capsys.readouterr()
    assert "4,512,746,496" in printed.out
    assert "Nothing stands in the way." in printed.out
    (tmp_path / "run").write_text("")
    show(planned())
    printed = capsys.readouterr()
    assert "is a file." in printed.err
    assert "Nothing stands" not in printed.out


def test_a_teacher_larger_than_memory_is_no_problem_and_the_plan_says_how_it_is_scored(
    planned, monkeypatch, capsys
):
    monkeypatch.setattr("niwaki.ground.streamed.memory_limit_bytes", lambda: 64 * 10**9)
    assert planned().streamed_bytes == 0
    show(planned())
    assert "Scores the teacher in memory" in capsys.readouterr().out
    monkeypatch.setattr("niwaki.ground.streamed.memory_limit_bytes", lambda: 16 * 10**9)
    large = planned()
    assert large.problems == ()
    assert large.streamed_bytes == 4 * 8_030_261_248
    assert next(stage for stage in large.stages if stage.name == "score").memory_bytes == 16 * 10**9
    show(large)
    assert "layer by layer: its 32.1 GB of weights do not fit" in capsys.readouterr().out


def test_families_are_listed_with_their_axes(capsys):
    show_families()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["llama", "layer"] for line in lines)
    assert any("mixtral" in line and "expert" in line for line in lines)


@pytest.mark.parametrize(
    "said, written",
    [
        (in_bytes(16_060_522_496), "16.1 GB"),
        (in_bytes(999), "999 B"),
        (in_bytes(5e12), "5 TB"),
        (in_words(40), "40 s"),
        (in_words(720), "12 min"),
        (in_words(18_720), "5.2 hours"),
        (in_words(267_840), "3.1 days"),
    ],
)
def test_figures_as_people_say_them(said, written):
    assert said == written


def test_a_recipe_from_flags_fits_the_teacher(teacher):
    save_teacher(teacher, max_position_embeddings=1024)
    found = recipe_for(str(teacher), to="50%", tokens="100M", data="stdlib")
    assert found.data.sequence_length_tokens == 1024
    assert found.num_steps == pytest.approx(400, rel=0.02)
    assert recipe_for(str(teacher), to="50%", tokens="5k", data="stdlib").num_steps == 2


def test_flags_that_cannot_be_read_are_named(teacher):
    with pytest.raises(
        RecipeError, match=r"(?s)choose.to: '50' would be.*distill.tokens: '100MB' is not a count"
    ):
        recipe_for(str(teacher), to="50", tokens="100MB", data="stdlib")
