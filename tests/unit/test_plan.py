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
from niwaki.ground.processes import supposing
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
def planned(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("niwaki.ground.streamed.memory_limit_bytes", lambda: 64 * 10**9)

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
    bare = {"repair": False, "rotate": False}
    by_loss = planned(choose=WIDTH_OF_THE_PAPER | {"rank": "loss"}, trim=bare).stages[1]
    by_trial = planned(choose=WIDTH_OF_THE_PAPER, trim=bare).stages[1]
    assert by_trial.flops > 10 * by_loss.flops
    assert by_trial.memory_bytes > 3 * by_loss.memory_bytes


def test_halving_costs_what_is_left_of_the_trials(planned):
    nothing_else = {"trim": {"repair": False, "rotate": False}, "depth": {"num_samples": 1}}
    full, once, twice = (planned(choose={"halving": halving}, **nothing_else) for halving in (0, 1, 2))
    assert len(full.candidates) == 8
    work = [found.stages[1].flops for found in (full, once, twice)]
    # 8 + 4 of 16 halves, 8 + 4 + 2 * 2 of 32 quarters
    assert work[1] / work[0] == pytest.approx(12 / 16, rel=0.05)
    assert work[2] / work[0] == pytest.approx(16 / 32, rel=0.05)
    # Five wait to go on where one is dealt with at a time.
    assert once.stages[1].written_bytes > 2.5 * full.stages[1].written_bytes


def test_limits_leave_shapes_out_and_say_what_would_admit_one(planned):
    every = planned(choose={"tolerance": "10%"})
    limited = planned(choose={"tolerance": "10%", "limits": {"kv_cache": "60%"}})
    assert {shape.sizes["layer"] for shape in every.candidates} > {16}
    assert {shape.sizes["layer"] for shape in limited.candidates} == {16}
    assert limited.serving[1].kv_cache_bytes == limited.serving[0].kv_cache_bytes / 2
    refused = problem(planned(choose={"limits": {"kv_cache": "10%"}}))
    assert isinstance(refused, BudgetError)
    assert "Allow kv_cache 41.9 MB" in refused.remedy


def test_a_modelled_latency_is_a_limit_at_once_and_a_measured_one_at_run(planned, capsys):
    options = {"tolerance": "10%", "limits": {"latency": "30%"}}
    assert "latency at most" in problem(planned(choose={**options, "device": "h100"})).message
    here = planned(choose={**options, "device": "here"})
    assert here.problems == ()
    assert "measured when the shapes are chosen" in here.warnings[0]
    show(here)
    assert "at run" in capsys.readouterr().out


def test_a_request_longer_than_the_context(teacher, planned):
    save_teacher(teacher, max_position_embeddings=2048)
    long = {"prompt_tokens": 2000, "new_tokens": 100}
    assert planned(choose={"serving": long}).problems == ()
    assert "2000 + 100 tokens" in problem(planned(choose={"serving": long, "device": "h100"})).message


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
BIG = Shape(SIZES, num_parameters=100_000, num_active_parameters=90_000, num_end_parameters=20_000)
SMALL = Shape(
    SIZES | {"layer": 2}, num_parameters=50_000, num_active_parameters=40_000, num_end_parameters=20_000
)
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


def test_scoring_costs_what_its_measure_and_rounds_take():
    once = costs()["score"].flops
    assert once == 10 * 32 * BIG.forward_flops(32)
    assert costs(calibration_passes=3)["score"].flops == 3 * once
    assert costs(calibration_passes=0)["score"].flops == 0
    # A gradient beside the weights, and the activations of every layer.
    assert costs(calibration_passes=3)["score"].memory_bytes > costs()["score"].memory_bytes + 4 * 100_000
    further = costs(calibration_rounds=3)
    assert further["score"].flops == once
    assert further["choose"].flops == costs()["choose"].flops + 3 * 2 * once
    assert further["trim"].flops == 2 * once


def test_a_teacher_in_training_and_one_on_disk_cost_what_they_do():
    taught = costs()["distill"]
    first = costs(correct_tokens=500)
    assert first["correct"].flops == 3 * 500 * BIG.forward_flops(32)
    assert first["correct"].memory_bytes > 16 * 100_000
    assert first["distill"] == taught
    beside = costs(corrects_alongside=True)
    assert beside["distill"].flops == taught.flops + 1000 * 2 * BIG.forward_flops(32)
    assert beside["distill"].memory_bytes > taught.memory_bytes + 16 * 100_000
    assert beside["distill"].written_bytes == taught.written_bytes + 3 * 12 * 100_000 + 200_000
    assert beside["choose"] == costs()["choose"]
    cached = costs(has_cache=True, cache_tokens=700, cache_bytes_per_token=10)
    assert cached["cache"].flops == 700 * BIG.forward_flops(32)
    assert cached["cache"].written_bytes == 7000
    assert cached["distill"].flops == pytest.approx(taught.flops - 1000 * BIG.forward_flops(32))
    assert cached["distill"].memory_bytes == taught.memory_bytes - 200_000
    assert cached["choose"].flops < costs()["choose"].flops


def test_a_repair_and_a_rotation_are_work_too():
    repaired, bare = costs(repair_tokens=64), costs()
    passes = 5 * 64 * (BIG.forward_flops(32) + SMALL.forward_flops(32))
    assert repaired["trim"].flops - bare["trim"].flops == passes
    assert repaired["choose"].flops - bare["choose"].flops == pytest.approx(3 * passes)
    assert repaired["trim"].written_bytes == 2 * bare["trim"].written_bytes
    assert repaired["trim"].memory_bytes == 200_000 + 4 * 50_000
    assert costs(basis_tokens=64)["choose"].flops - bare["choose"].flops == pytest.approx(
        64 * BIG.forward_flops(32)
    )


def test_what_trim_asks_for_is_in_the_plan(planned):
    nothing = {"repair": False, "rotate": False}
    bare, repaired, rotated = (
        planned(choose=WIDTH_OF_THE_PAPER, trim=nothing | asked)
        for asked in ({}, {"repair": True}, {"rotate": True})
    )
    assert repaired.stages[2].flops > bare.stages[2].flops == 0
    assert rotated.stages[1].flops > bare.stages[1].flops


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


def save_mixture(teacher):
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2, "vocab_size": 8}
    AutoConfig.for_model("mixtral", hidden_size=64, num_attention_heads=8, **sizes).save_pretrained(teacher)


def test_fewer_experts_than_a_token_visits(teacher, planned):
    save_mixture(teacher)
    found = problem(planned(choose={"to": {"low": 1, "high": "1B"}, "grid": {"expert": [1, 2]}}))
    assert isinstance(found, FamilyError)
    assert "1 experts are fewer than num_experts_per_tok=2" in found.message
    assert "Keep at least 2" in found.remedy
    shapes = planned(choose={"to": "60%", "tolerance": "20%", "axes": ["expert", "effn"]}).candidates
    assert min(shape.sizes["expert"] for shape in shapes) == 2


def test_axes_that_the_teacher_does_not_have_or_cuts_only_together(teacher, planned):
    save_mixture(teacher)
    assert "mixtral has no ffn" in problem(planned(choose={"axes": ["layer", "ffn"]})).message
    AutoConfig.for_model("phi3", vocab_size=8, pad_token_id=0).save_pretrained(teacher)
    assert "they can only be cut together" in problem(planned(choose={"axes": ["hidden", "ffn"]})).message
    assert not planned().problems


def test_rounds_without_a_size_on_the_way(teacher, planned):
    save_teacher(teacher, num_attention_heads=64, num_key_value_heads=8)
    choose = {"to": {"low": 1, "high": "9B"}, "grid": {"heads": [32]}}
    assert not planned(choose=choose).problems
    found = problem(planned(choose=choose, score={"rounds": 3}))
    assert "round 1 of 3 finds no hidden size" in found.message


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


KEPT_BYTES = 64 * 6 + 32 * 4 + 8


def test_a_cached_teacher_is_checked_against_the_disk_it_lies_on(planned, tmp_path, monkeypatch):
    cache = {"path": str(tmp_path / "shared" / "cache")}
    found = planned(distill={"cache": cache}, data={"max_tokens": "1M"})
    assert found.problems == ()
    assert f"takes {KEPT_BYTES} bytes per token of the training text: 0.52 GB" in found.warnings[0]
    assert next(s for s in found.stages if s.name == "cache").written_bytes == KEPT_BYTES * 10**6
    free = {str(tmp_path): KEPT_BYTES * 10**6 - 1}
    large = SimpleNamespace(free=10**12)
    monkeypatch.setattr(
        "shutil.disk_usage",
        lambda path: SimpleNamespace(free=free[str(path)]) if str(path) in free else large,
    )
    (tmp_path / "run").mkdir()
    assert (
        "distill.cache.path" in problem(planned(distill={"cache": cache}, data={"max_tokens": "1M"})).message
    )


def test_a_cached_teacher_in_the_run_counts_among_its_bytes(planned):
    plain, cached = planned(), planned(distill={"cache": {}}, data={"max_tokens": "1M"})
    assert cached.written_bytes == plain.written_bytes + KEPT_BYTES * 10**6
    unknown = planned(distill={"cache": {}})
    assert "How many there are is known once it is tokenised" in unknown.warnings[0]
    assert unknown.written_bytes == plain.written_bytes


def test_a_cache_without_a_tail_is_a_problem(planned):
    assert "top_k 128256 leaves nothing" in problem(planned(distill={"cache": {"top_k": 128256}})).message


def test_a_correction_is_a_stage_of_the_plan(planned):
    assert planned(correct={}).stages[0].name == "correct"


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


def test_a_layer_map_must_fit_teacher_and_every_candidate(planned):
    halves = {"to": {"low": "4B", "high": "6B"}, "grid": {"layer": [16, 20]}}
    fits = {"layers": {31: 15, "last-31": "last-15"}}
    assert planned(choose=halves, distill={"hidden": fits}).problems == ()
    found = problem(planned(choose=halves, distill={"hidden": {"layers": {31: 16}}}))
    assert "the student has 16 layers, so there is no layer 16" in found.message
    assert "0 to 15" in found.remedy
    found = problem(planned(choose=halves, distill={"hidden": {"layers": {32: 15}}}))
    assert "the teacher has 32 layers" in found.message


def test_top_k_is_at_most_the_vocabulary(planned):
    assert planned(distill={"top_k": 128256}).problems == ()
    assert "128,256 tokens" in problem(planned(distill={"top_k": 128257})).message


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


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"score": {"measure": "taylor"}}, "score.measure 'taylor'"),
        ({"score": {"measure": "magnitude"}}, "score.measure 'magnitude'"),
        ({"score": {"rounds": 2}}, "score.rounds 2"),
    ],
)
def test_what_needs_the_teacher_in_memory_is_refused_where_it_does_not_fit(
    planned, monkeypatch, sections, said
):
    assert planned(**sections).problems == ()
    monkeypatch.setattr("niwaki.ground.streamed.memory_limit_bytes", lambda: 16 * 10**9)
    (problem,) = planned(**sections).problems
    assert problem.message.startswith(f"{said} needs all of the teacher's weights in memory")


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


def test_processes_share_time_and_sharded_ones_share_weights(tmp_path):
    recipe = starter().model_copy(update={"teacher": str(save_teacher(tmp_path / "teacher"))})
    found = {}
    for name, options in {"one": (1, False), "ddp": (8, False), "fsdp2": (8, True)}.items():
        with supposing(options[0], is_sharded=options[1]):
            planned = plan(recipe, out=tmp_path / "run", flops_per_s=1e9)
        found[name] = {stage.name: stage for stage in planned.stages}["distill"]
    assert found["ddp"].memory_bytes == found["one"].memory_bytes > found["fsdp2"].memory_bytes
    assert found["ddp"].flops == found["fsdp2"].flops == pytest.approx(found["one"].flops / 8)


def test_eight_processes_do_an_eighth_of_every_stage():
    work = {"calibration_rounds": 3, "basis_tokens": 70, "depth_tokens": 80, "repair_tokens": 90}
    alone, eight = (costs(num_processes=number, has_baseline=True, **work) for number in (1, 8))
    for name, stage in alone.items():
        assert stage.flops > 0, name
        assert stage.flops == pytest.approx(8 * eight[name].flops), name


def test_what_processes_share_is_whole_for_a_layer_at_a_time_and_outside_the_layers():
    whole, shared = (costs(num_processes=8, is_sharded=sharded) for sharded in (False, True))
    # Layers of 20,000 (teacher) and 15,000 (student) parameters, 20,000 outside the layers of each.
    teacher = 2 * (80_000 // 8 + 20_000 + 2 * 20_000)
    training = 16 * 50_000 // 8 + 4 * (3 * 20_000 + 4 * 15_000)
    saved = whole["distill"].memory_bytes - shared["distill"].memory_bytes
    assert saved == 2 * 100_000 + 16 * 50_000 - teacher - training
    student = 2 * (30_000 // 8 + 20_000 + 2 * 15_000)
    assert shared["evaluate"].memory_bytes == teacher + student


def test_recomputed_activations_need_less_memory_and_another_forward_pass(tmp_path):
    recipe = starter().model_copy(update={"teacher": str(save_teacher(tmp_path / "teacher"))})
    again = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"checkpointing": True})})
    kept, computed = (
        {stage.name: stage for stage in plan(each, out=tmp_path / "run", flops_per_s=1e9).stages}["distill"]
        for each in (recipe, again)
    )
    assert computed.memory_bytes < kept.memory_bytes
    assert kept.flops < computed.flops < 1.34 * kept.flops
