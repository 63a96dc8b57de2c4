"""GRPO through TRL on a model of 30,000 parameters: settings, signal, resume, faults."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

from niwaki.errors import CheckpointError, DataError, TrainingError
from niwaki.ground.metrics import read_metrics
from niwaki.ground.model import load_model
from niwaki.rl.extra import Extra, ModelReward
from niwaki.rl.form import Form
from niwaki.rl.rewards import Grade
from niwaki.rl.steps import telling
from niwaki.rl.train import Lora, grpo_arguments, train_rl
from niwaki.verify.prompt import BARE
from niwaki.verify.question import Question

from .conftest import sums

pytest.importorskip("trl")
SETTINGS = {
    "prompts_per_step": 2,
    "num_generations": 4,
    "micro_rollouts": 4,
    "prompt": BARE,
    "max_prompt_tokens": 40,
    "max_completion_tokens": 8,
    "learning_rate": 1e-3,
    "precision": "float32",
}


def dense(completions):
    """A reward with signal for a random model, to which the rule gives 0 everywhere: different characters."""
    return [Grade(len(set(c.text)) / 20, False, Form.NO_BOX, "different") for c in completions]


def weights(folder):
    return load_model(folder).state_dict()


def test_what_the_paper_states_is_set_and_not_left_to_trl(tmp_path):
    stated = grpo_arguments(
        out=tmp_path, max_steps=1, per_device_train_batch_size=8, num_generations=8, bf16=False
    )
    assert stated.loss_type == "grpo"
    assert stated.scale_rewards == "group"
    assert stated.use_bias_correction_kl is False
    assert stated.num_iterations == 1
    assert stated.lr_scheduler_type == "constant"
    assert stated.mask_truncated_completions is False
    assert stated.save_strategy == "no"  # TRL's checkpoints hold pickles


def test_the_defaults_are_the_papers():
    defaults = train_rl.__kwdefaults__
    wanted = {
        "prompts_per_step": 128,
        "num_generations": 8,
        "learning_rate": 1e-6,
        "beta": 0.001,
        "epsilon": 0.2,
        "temperature": 1.0,
        "top_p": 1.0,
        "rule": "and",
    }
    assert {name: defaults[name] for name in wanted} == wanted


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    train_rl(start, sums(6), out=out, num_steps=4, grade=dense, **SETTINGS)
    return out


def test_training_moves_a_stock_model_and_writes_counts_by_domain(start, straight):
    before, after = weights(start), weights(straight / "model")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    records = read_metrics(straight / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    for record in records:
        assert record["rollouts"] == 8
        assert record["groups"] == 2
        assert set(record["domains"]) == {"law", "math"}
        assert math.isfinite(record["grad_norm"])
    assert records[-1]["tokens_seen"] == sum(record["tokens"] for record in records)
    rows = [json.loads(line) for line in (straight / "rollouts.jsonl").read_text().splitlines()]
    assert {"completion", "gold", "reason", "form", "reward"} <= set(rows[0])


def test_nothing_that_is_kept_is_a_pickle(straight):
    kept = {path.suffix for path in straight.rglob("*") if path.is_file()}
    assert kept <= {".json", ".jsonl", ".safetensors"}


def test_stop_and_resume_is_straight_through(start, straight, tmp_path):
    train_rl(start, sums(6), out=tmp_path, num_steps=4, until_step=2, grade=dense, **SETTINGS)
    assert not (tmp_path / "model").exists()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "half": 1}\n{"st')  # what a killed process may leave
    train_rl(start, sums(6), out=tmp_path, num_steps=4, grade=dense, **SETTINGS)
    ours, theirs = weights(tmp_path / "model"), weights(straight / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics(tmp_path / "metrics.jsonl") == read_metrics(straight / "metrics.jsonl")


def test_a_killed_save_is_made_up_for(start, straight, tmp_path):
    train_rl(start, sums(6), out=tmp_path, num_steps=1, grade=dense, **SETTINGS)
    done = weights(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "gone")
    train_rl(start, sums(6), out=tmp_path, num_steps=1, grade=dense, **SETTINGS)
    again = weights(tmp_path / "model")
    assert all(torch.equal(done[name], again[name]) for name in done)


def test_no_signal_no_update(start, tmp_path):
    """A random model earns nothing under the rule: advantages are 0, and without KL so is the gradient."""
    train_rl(start, sums(4), out=tmp_path, num_steps=1, beta=0.0, **SETTINGS)
    [record] = read_metrics(tmp_path / "metrics.jsonl")
    assert record["groups_all_wrong"] == 2
    assert record["reward"] == 0
    assert record["grad_norm"] == 0


def test_a_longer_batch_of_micro_batches_is_the_same_step(start, straight, tmp_path):
    """Accumulation changes nothing but rounding."""
    train_rl(start, sums(6), out=tmp_path, num_steps=1, grade=dense, **{**SETTINGS, "micro_rollouts": 8})
    whole, parts = (read_metrics(folder / "metrics.jsonl")[0] for folder in (tmp_path, straight))
    assert whole["reward"] == parts["reward"]
    assert whole["grad_norm"] == pytest.approx(parts["grad_norm"], rel=1e-3)


def test_an_adapter_is_merged_into_a_stock_model(start, tmp_path):
    train_rl(start, sums(4), out=tmp_path, num_steps=2, grade=dense, lora=Lora(rank=2), **SETTINGS)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert set(model.state_dict()) == set(weights(start))
    before, after = weights(start), model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("proj" in name for name in moved)


def test_an_adapter_resumes_to_the_same_end(start, tmp_path):
    for name, pauses in (("straight", [None]), ("resumed", [1, None])):
        for until in pauses:
            train_rl(
                start,
                sums(4),
                out=tmp_path / name,
                num_steps=2,
                until_step=until,
                grade=dense,
                lora=Lora(rank=2),
                **SETTINGS,
            )
    ours, theirs = weights(tmp_path / "resumed" / "model"), weights(tmp_path / "straight" / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_long_prompts_are_left_out_and_counted(start, tmp_path):
    long = Question("long", "1 + " * 60 + "1 = ?", "61")
    result = train_rl(start, [long, *sums(3)], out=tmp_path, num_steps=1, grade=dense, **SETTINGS)
    assert (result.num_questions, result.num_too_long) == (3, 1)
    with pytest.raises(DataError, match=r"Not one of 1 questions has a prompt of at most 40 tokens"):
        train_rl(start, [long], out=tmp_path / "none", num_steps=1, **SETTINGS)


def test_batches_that_do_not_divide_are_refused(start, tmp_path):
    with pytest.raises(TrainingError, match="8 rollouts a step do not divide"):
        train_rl(start, sums(4), out=tmp_path, num_steps=1, **{**SETTINGS, "micro_rollouts": 3})


def test_an_extra_reward_that_raises_stalls_nothing(start, tmp_path):
    def broken(**columns):
        raise RuntimeError("out of order")

    train_rl(
        start, sums(4), out=tmp_path, num_steps=2, grade=dense, extra=[Extra("odd", broken, 0.5)], **SETTINGS
    )
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["rewards/odd"] for record in records] == [0.0, 0.0]
    assert [record["failed/odd"] for record in records] == [1, 2]
    with pytest.raises(TrainingError, match=r"'odd' failed 3 times in a row: RuntimeError\('out of order'\)"):
        train_rl(
            start,
            sums(4),
            out=tmp_path / "third",
            num_steps=3,
            grade=dense,
            extra=[Extra("odd", broken, 0.5)],
            **SETTINGS,
        )


@pytest.fixture(scope="module")
def reward_model(start, tmp_path_factory):
    """A sequence classifier with one output, beside the tokenizer."""
    folder = tmp_path_factory.mktemp("reward")
    config = load_model(start).config
    config.num_labels = 1
    torch.manual_seed(1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(start).save_pretrained(folder)
    return folder


def test_a_saved_reward_model_is_mixed_in_and_never_outbids_the_rule(start, reward_model, tmp_path):
    score = ModelReward(reward_model)
    values = score(prompts=["1+1=?\n"] * 3, completions=["2", "3", "a longer answer"])
    assert all(0 < value < 1 for value in values)
    alone = [score(prompts=["1+1=?\n"], completions=[text])[0] for text in ("2", "3", "a longer answer")]
    assert values == pytest.approx(alone, abs=1e-5)  # padding changes nothing
    records = []
    for weight in (0.2, 0.4):
        extra = [Extra("taste", score, weight)]
        train_rl(start, sums(4), out=tmp_path / str(weight), num_steps=1, extra=extra, **SETTINGS)
        records += read_metrics(tmp_path / str(weight) / "metrics.jsonl")
    assert all(0 < record["rewards/taste"] < 1 for record in records)
    assert all(record["grad_norm"] > 0 for record in records)  # the rule alone gives a random model no signal
    assert records[1]["reward_std"] == pytest.approx(2 * records[0]["reward_std"], rel=1e-3)


def test_a_model_that_is_no_reward_model_is_refused(start):
    with pytest.raises(CheckpointError, match="LlamaForCausalLM with 2 outputs"):
        ModelReward(start)


def test_right_and_wrong_rollouts_are_both_kept(start):
    from .test_rewards import RIGHT, WRONG, rollouts

    rows = rollouts([("math", [RIGHT] * 3 + [WRONG])] + [("law", [WRONG] * 4)] * 3)
    kept = telling(rows, 4)
    assert len(kept) == 4
    assert [r.grade.correct for r in kept].count(True) == 1
    assert len({(r.group, r.grade.correct) for r in kept}) == 4


def test_weights_are_trained_in_float32_and_saved_as_they_came(start, tmp_path):
    load_model(start).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(start).save_pretrained(tmp_path / "half")
    train_rl(
        tmp_path / "half",
        sums(6),
        out=tmp_path / "out",
        num_steps=1,
        grade=dense,
        **{**SETTINGS, "learning_rate": 1e-6},
    )
    assert load_model(tmp_path / "out" / "model").dtype == torch.bfloat16
    kept = load_file(tmp_path / "out" / "checkpoints" / "step-0000001" / "model-1-of-1.safetensors")
    before = load_model(tmp_path / "half").float().state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in kept.items())
