"""Which layers a run drops, as the recipe says, measured once for all candidates of a depth."""

import json

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from niwaki.errors import EvaluationError, RecipeError
from niwaki.evaluation.harness import run_tasks
from niwaki.ground.layers import without_layers
from niwaki.ground.model import load_model
from niwaki.pipelines.cut import cut
from niwaki.pipelines.depth import layers_to_drop, num_measurements
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.plan import plan
from niwaki.pruning.score import score
from niwaki.pruning.trim import TrimRecord
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import build

from ..conftest import write_texts

NUM_LAYERS = 6
TASKS = {
    "copy_word": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "likely_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tokenizer):
    """A teacher of six layers with its tokenizer, texts, and two lm-eval tasks."""
    folder = tmp_path_factory.mktemp("depth")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
        initializer_range=0.2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    write_texts(folder / "texts")
    (folder / "tasks").mkdir()
    questions = [{"question": f"The old branch {n} is", "answer": " cut"} for n in range(6)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    for name, task in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": str(folder / "questions.jsonl")}}
        content = {"task": name, "test_split": "train", **data, **task}
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def recipe_for(world, **depth):
    content = {
        "kind": "compress",
        "teacher": str(world / "teacher"),
        "data": {"source": str(world / "texts"), "sequence_length_tokens": 16, "held_out": "30%"},
        "choose": {"to": "70%", "tolerance": "20%", "grid": {"layer": [3], "ffn": [40, 48]}},
        "depth": {"num_samples": 6} | depth,
        "trim": {"repair": False},
        "distill": {"tokens": "10k", "batch_tokens": 64},
        "evaluate": {"include_path": str(world / "tasks")},
    }
    return build(content, CompressRecipe, name="recipe")


@pytest.fixture(scope="module")
def importance(world):
    inputs = Inputs(recipe_for(world))
    return score(inputs.load(inputs.teacher_folder), inputs.calibration, num_samples=4).importances()


def dropped(world, importance, folder, num_layers, **depth):
    return layers_to_drop(
        Inputs(recipe_for(world, **depth)), importance, {"layer": num_layers}, folder=folder
    )


def values(folder):
    removed = json.loads((folder / "depth.json").read_text())["removed"]
    return {tuple(each["layers"]): each["value"] for each in removed}


def test_the_default_is_the_block_of_least_loss_and_singles_for_two(world, importance, tmp_path):
    block = dropped(world, importance, tmp_path, 3)
    tried = {layers: value for layers, value in values(tmp_path).items() if len(layers) == 3}
    assert sorted(tried) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert block == min(tried, key=tried.get)
    singles = dropped(world, importance, tmp_path, 4)
    tried = {layers[0]: value for layers, value in values(tmp_path).items() if len(layers) == 1}
    assert singles == tuple(sorted(sorted(tried, key=tried.get)[:2]))
    assert dropped(world, importance, tmp_path, NUM_LAYERS) == ()


def test_nothing_is_measured_twice(world, importance, tmp_path, monkeypatch):
    first = dropped(world, importance, tmp_path, 3)
    monkeypatch.setattr("niwaki.pipelines.depth.measure_on_rows", None)
    assert dropped(world, importance, tmp_path, 3) == first


def test_influence_of_single_layers_comes_from_the_scores(world, importance, tmp_path, monkeypatch):
    monkeypatch.setattr("niwaki.pipelines.depth.measure_on_rows", None)
    found = dropped(world, importance, tmp_path, 4, measure="influence")
    influence = importance["layer"][:-1]
    assert found == tuple(sorted(influence.argsort()[:2].tolist()))


def test_influence_of_a_block_is_measured_from_its_ends(world, importance, tmp_path):
    block = dropped(world, importance, tmp_path, 3, measure="influence")
    tried = {layers: value for layers, value in values(tmp_path).items() if layers}
    assert block == min(tried, key=tried.get)
    assert len(tried) == 3


def test_both_candidates_and_the_trim_drop_the_same_layers_and_say_which(world, importance, tmp_path):
    inputs = Inputs(recipe_for(world))
    found = [
        cut(inputs, importance, {"layer": 3, "ffn": ffn}, tmp_path / str(ffn), depth_folder=tmp_path)
        or TrimRecord.load(tmp_path / str(ffn) / "trim.json")
        for ffn in (40, 48)
    ]
    assert found[0].keep["layer"] == found[1].keep["layer"]
    gone = sorted(set(range(NUM_LAYERS)) - set(found[0].keep["layer"]))
    assert found[0].dropped_layers == [f"model.layers.{layer}" for layer in gone]


def test_layers_go_by_name(world, importance, tmp_path):
    assert dropped(world, importance, tmp_path, 3, drop=[5, 0, 3]) == (0, 3, 5)
    assert not (tmp_path / "depth.json").exists()
    inputs = Inputs(recipe_for(world, drop=[5, 0, 3]))
    cut(inputs, importance, {"layer": 3}, tmp_path / "out", depth_folder=tmp_path)
    assert TrimRecord.load(tmp_path / "out" / "trim.json").keep["layer"] == [1, 2, 4]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_scores_the_model_without_layers_as_it_does_the_trimmed_folder(
    world, importance, tmp_path, task
):
    pytest.importorskip("lm_eval", reason="needs niwaki[eval]")
    inputs = Inputs(recipe_for(world, drop=[1, 2, 3]))
    cut(inputs, importance, {"layer": 3}, tmp_path / "out", depth_folder=tmp_path)
    arguments = {"tokenizer": inputs.tokenizer, "tasks": [task], "include_path": world / "tasks"}
    teacher = inputs.load(inputs.teacher_folder)
    with without_layers(teacher, [1, 2, 3]):
        found = run_tasks(teacher, **arguments)
    assert found == run_tasks(load_model(tmp_path / "out"), **arguments)


def test_a_task_is_a_measure_and_higher_is_better_whatever_its_metric(world, importance, tmp_path):
    pytest.importorskip("lm_eval", reason="needs niwaki[eval]")
    block = dropped(world, importance, tmp_path, 3, measure="likely_word")
    tried = {layers: value for layers, value in values(tmp_path).items() if layers}
    assert all(value < 0 for value in tried.values())  # perplexity, where lower is better
    assert block == max(tried, key=tried.get)
    with pytest.raises(EvaluationError, match="reports perplexity, acc"):
        dropped(world, importance, tmp_path / "..", 2, measure="likely_word", metric="f1")


def problems(world, tmp_path, **depth):
    return [
        p.message for p in plan(recipe_for(world, **depth), out=tmp_path / "run", flops_per_s=1.0).problems
    ]


def test_a_plan_finds_what_is_wrong_with_the_layers_to_drop(world, tmp_path):
    assert problems(world, tmp_path, drop=[1, 2, 3]) == []
    assert "layer 6, but the teacher's layers are 0 to 5" in problems(world, tmp_path, drop=[1, 2, 6])[0]
    assert "leaves 4, but there are candidates of 3 layers" in problems(world, tmp_path, drop=[1, 2])[0]


def test_a_plan_finds_an_unknown_task(world, tmp_path):
    pytest.importorskip("lm_eval", reason="needs niwaki[eval]")
    assert problems(world, tmp_path, measure="copy_word") == []
    assert "'influense' is neither loss nor influence" in problems(world, tmp_path, measure="influense")[0]


def test_a_plan_finds_a_metric_that_the_task_does_not_report(world, tmp_path):
    pytest.importorskip("lm_eval", reason="needs niwaki[eval]")
    assert problems(world, tmp_path, measure="likely_word", metric="acc") == []
    found = problems(world, tmp_path, measure="likely_word", metric="f1")
    assert found == ["depth.metric 'f1': task 'likely_word' reports perplexity, acc."]


@pytest.mark.parametrize(
    ("depth", "num_passes"),
    [
        ({}, 3),  # the blocks of three layers that leave the last
        ({"pattern": "single"}, NUM_LAYERS - 1),
        ({"measure": "influence"}, 1),
        ({"measure": "influence", "pattern": "single"}, 0),
        ({"drop": [1, 2, 3]}, 0),
    ],
)
def test_a_plan_counts_the_passes_that_choose_the_layers(world, depth, num_passes):
    shapes = [{"layer": 3, "ffn": 40}, {"layer": 3, "ffn": 48}, {"layer": NUM_LAYERS, "ffn": 40}]
    assert num_measurements(recipe_for(world, **depth), NUM_LAYERS, shapes) == num_passes


@pytest.mark.parametrize(
    ("depth", "said"),
    [
        ({"drop": [3, 3]}, "layer 3 more than once"),
        ({"drop": [-1]}, "numbered from 0"),
        ({"drop": []}, "numbered from 0"),
        ({"metric": "acc"}, "metric belongs to an lm-eval task"),
        ({"measure": " "}, "measure is empty"),
        ({"pattern": "blocks"}, "Did you mean 'block'"),
    ],
)
def test_a_recipe_is_refused_for_what_needs_no_model(world, depth, said):
    with pytest.raises(RecipeError, match=said):
        recipe_for(world, **depth)
