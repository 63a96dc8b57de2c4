"""Distillation of tiny models: the loss, the loop around it, and what is refused before it starts."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from niwaki.distillation.losses import cross_entropy, forward_kl
from niwaki.distillation.train import check_same_tokenizer, distill, distillation_loss, next_token_loss
from niwaki.errors import CheckpointError
from niwaki.ground.stream import Rows

ROWS = Rows(np.random.default_rng(0).integers(0, 300, 4000), sequence_length=16, seed=0)


@pytest.fixture
def teacher(tiny_model):
    """Wider than the student, with logits far from flat."""
    torch.manual_seed(1)
    config = copy.deepcopy(tiny_model.config)
    config.hidden_size, config.num_hidden_layers = 48, 3
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    return model


def masked_batch():
    batch = ROWS.take(0, 3)
    batch["mask"] = torch.rand(batch["mask"].shape, generator=torch.Generator().manual_seed(0)) < 0.6
    return batch


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_the_loss_is_that_of_the_stock_logits_with_the_gradient_of_every_parameter(tiny_model, teacher):
    batch = masked_batch()
    student_logits = tiny_model(batch["inputs"]).logits
    kl = (forward_kl(student_logits, teacher(batch["inputs"]).logits.detach()) * batch["mask"]).sum()
    nats = (cross_entropy(student_logits, batch["targets"]) * batch["mask"]).sum()
    total, metrics = distillation_loss(teacher)(tiny_model, batch)
    torch.testing.assert_close(total, kl)
    torch.testing.assert_close(metrics["kl"], kl.detach())
    torch.testing.assert_close(metrics["cross_entropy"], nats.detach())
    torch.testing.assert_close(gradients(tiny_model, total), gradients(tiny_model, kl))
    assert all(p.grad is None for p in teacher.parameters())


def test_the_next_token_loss_is_that_of_the_stock_logits(tiny_model):
    batch = masked_batch()
    nats = cross_entropy(tiny_model(batch["inputs"]).logits, batch["targets"])
    total, metrics = next_token_loss(tiny_model, batch)
    torch.testing.assert_close(total, (nats * batch["mask"]).sum())
    assert not metrics["cross_entropy"].requires_grad


def test_the_teacher_answers_without_dropout(tiny_model, teacher):
    teacher.config.attention_dropout = 0.5
    for layer in teacher.model.layers:
        layer.self_attn.attention_dropout = 0.5
    teacher.train()
    loss, batch = distillation_loss(teacher), masked_batch()
    torch.testing.assert_close(loss(tiny_model, batch)[0], loss(tiny_model, batch)[0], rtol=0, atol=0)


SETTINGS = {"num_steps": 30, "batch_rows": 8, "micro_rows": 8, "learning_rate": 1e-2, "precision": "float32"}


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_student_comes_closer_and_the_teacher_stays(tiny_model, teacher, tmp_path, precision):
    before = copy.deepcopy(teacher.state_dict())
    held_out = Rows(np.random.default_rng(1).integers(0, 300, 400), sequence_length=16)
    settings = SETTINGS | {"precision": precision, "held_out": held_out, "held_out_rows": 8}
    distill(tiny_model, teacher, ROWS, out=tmp_path, **settings)
    first, *_, last = [r["held_out_kl"] for r in records(tmp_path) if "held_out_kl" in r]
    assert last < 0.7 * first
    assert all("cross_entropy" in r for r in records(tmp_path) if "loss" in r)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_accumulation_changes_nothing_but_rounding(tiny_model, teacher, tmp_path):
    once = SETTINGS | {"num_steps": 1}
    distill(copy.deepcopy(tiny_model), teacher, ROWS, out=tmp_path / "whole", **once)
    distill(tiny_model, teacher, ROWS, out=tmp_path / "parts", **once | {"micro_rows": 2})
    (whole,), (parts,) = (records(tmp_path / name) for name in ("whole", "parts"))
    for name in ("loss", "cross_entropy", "grad_norm"):
        assert whole[name] == pytest.approx(parts[name], rel=1e-5)


def test_vocabularies_of_different_size_are_refused_before_anything_is_written(tiny_model, teacher, tmp_path):
    teacher.resize_token_embeddings(320)
    with pytest.raises(CheckpointError, match=r"student's head has 300 tokens, the teacher's 320"):
        distill(tiny_model, teacher, ROWS, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_weights_that_are_not_numbers_is_refused(tiny_model, teacher, tmp_path):
    with torch.no_grad():
        teacher.model.layers[1].mlp.up_proj.weight[0] = float("inf")
    with pytest.raises(CheckpointError):
        distill(tiny_model, teacher, ROWS, out=tmp_path / "run", **SETTINGS)


@pytest.fixture
def two_folders(tokenizer, tmp_path):
    """Two model folders with the same tokenizer; only their padding settings differ."""
    folders = tmp_path / "teacher", tmp_path / "student"
    for folder in folders:
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text('{"model_type": "llama"}')
    rules = json.loads((folders[1] / "tokenizer.json").read_text())
    rules["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (folders[1] / "tokenizer.json").write_text(json.dumps(rules, indent=4))
    return folders


def test_the_same_tokenizer_in_two_folders_passes(two_folders):
    check_same_tokenizer(*two_folders)


def swap_two_tokens(rules):
    vocabulary = rules["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def drop_a_merge(rules):
    rules["model"]["merges"].pop()


def normalise(rules):
    rules["normalizer"] = {"type": "Lowercase"}


@pytest.mark.parametrize("change", [swap_two_tokens, drop_a_merge, normalise])
def test_another_tokenizer_is_refused_naming_both(two_folders, change):
    teacher, student = two_folders
    rules = json.loads((student / "tokenizer.json").read_text())
    change(rules)
    (student / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(CheckpointError, match="differ; a token must mean the same") as error:
        check_same_tokenizer(teacher, student)
    assert str(teacher) in error.value.message
    assert str(student) in error.value.message
