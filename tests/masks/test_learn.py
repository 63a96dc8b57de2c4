"""Learning masks on the shared loop: resume, checkpointing, accumulation, and what is measured."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from niwaki.distillation.train import next_token_loss
from niwaki.errors import RecipeError
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.adam8 import BLOCK, AdamW8bit
from niwaki.ground.stream import Rows
from niwaki.masks.apply import apply_in_memory
from niwaki.masks.gumbel import Gate, Temperature, install
from niwaki.masks.learn import learn_masks
from niwaki.masks.oneshot import one_shot
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import maskable
from niwaki.pipelines.sparsify_learn import distill_from_itself

PATTERN = Pattern.parse("2:4")
ROWS = Rows(np.random.default_rng(0).integers(0, 30, 4000), sequence_length=16, seed=0)
HELD_OUT = Rows(np.random.default_rng(1).integers(0, 30, 400), sequence_length=16)


def prior_of(model, pattern=PATTERN):
    return {each.name: each.numbers for each in one_shot(model, None, pattern=pattern, method="magnitude")}


def learn(model, out, loss=lambda masked: next_token_loss, pattern=PATTERN, **changes):
    settings = {
        "prior": prior_of(model, pattern),
        "num_steps": 6,
        "batch_rows": 4,
        "micro_rows": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
    }
    return learn_masks(model, ROWS, loss, out=out, pattern=pattern, **settings | changes)


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


def assert_same(one, other):
    assert all(torch.equal(one.masks[name], other.masks[name]) for name in one.masks)


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8"])
def test_masks_are_learned_and_the_weights_are_not(tiny_model, tmp_path, text):
    pattern = Pattern.parse(text)
    before = {name: p.clone() for name, p in tiny_model.named_parameters()}
    prior = prior_of(tiny_model, pattern)
    learned = learn(tiny_model, tmp_path, pattern=pattern, num_steps=12)
    assert all(torch.equal(p, before[name]) for name, p in tiny_model.named_parameters())
    assert set(learned.masks) == set(maskable(tiny_model.config, pattern))
    assert any(not torch.equal(learned.masks[name], prior[name]) for name in prior)


def test_a_stopped_training_goes_on_to_the_same_masks(tiny_model, tmp_path):
    straight = learn(copy.deepcopy(tiny_model), tmp_path / "straight")
    learn(copy.deepcopy(tiny_model), tmp_path / "stopped", until_step=3)
    assert_same(straight, learn(tiny_model, tmp_path / "stopped"))
    one, other = records(tmp_path / "straight"), records(tmp_path / "stopped")
    assert [r["loss"] for r in one] == [r["loss"] for r in other]


def test_a_snapshot_holds_logits_and_nothing_frozen(tiny_model, tmp_path):
    learn(tiny_model, tmp_path)
    names = load_file(next(tmp_path.glob("checkpoints/step-*/model-1-of-1.safetensors")))
    assert len(names) == len(maskable(tiny_model.config, PATTERN))
    assert all(name.endswith(".logits") for name in names)


def gradients(model, *, checkpointing):
    shapes = maskable(model.config, PATTERN)
    generator = torch.Generator().manual_seed(0)
    gates = {n: Gate(s, PATTERN, Temperature(100.0, 4.0), generator=generator) for n, s in shapes.items()}
    install(model, gates)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    from niwaki.masks.learn import _with_norms

    loss = _with_norms(next_token_loss, gates, [1e-3])
    model.train()
    torch.manual_seed(7)
    total, _ = loss(model, ROWS.take(0, 2))
    total.backward()
    return float(total.detach()), {name: gate.logits.grad for name, gate in gates.items()}


def test_activation_checkpointing_uses_the_same_noise_twice(tiny_model):
    plain_total, plain = gradients(copy.deepcopy(tiny_model), checkpointing=False)
    total, found = gradients(tiny_model, checkpointing=True)
    assert total == plain_total
    for name, grad in plain.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-7)


def test_accumulation_changes_nothing_but_the_noise(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *a: self.fill_(torch.tensor(-1.0).exp()))
    learn(copy.deepcopy(tiny_model), tmp_path / "whole", micro_rows=4, regularization=1e-3)
    learn(tiny_model, tmp_path / "parts", micro_rows=1, regularization=1e-3)
    for name in ("loss", "grad_norm", "squared_norm"):
        one, other = ([r[name] for r in records(tmp_path / way)] for way in ("whole", "parts"))
        np.testing.assert_allclose(one, other, rtol=2e-4)


def test_held_out_loss_is_that_of_the_argmax_mask_in_the_weights(tiny_model, tmp_path):
    learned = learn(tiny_model, tmp_path, held_out=HELD_OUT, held_out_rows=6)
    apply_in_memory(tiny_model, learned.masks, PATTERN)
    baked = held_out_loss(tiny_model, HELD_OUT, num_rows=6, batch_rows=3)
    assert learned.fit.held_out["loss"] == pytest.approx(baked.nats_per_token.mean, rel=1e-5)


def test_distilling_from_itself_is_zero_for_the_dense_model_and_teaches(tiny_model, tmp_path):
    with torch.no_grad():
        for p in tiny_model.parameters():
            p.mul_(3)  # far from uniform logits
    learned = learn(
        tiny_model, tmp_path, distill_from_itself, num_steps=60, held_out=HELD_OUT, held_out_rows=6
    )
    kl = [r["held_out_kl"] for r in records(tmp_path) if "held_out_kl" in r]
    assert 0 < kl[-1] < kl[0]
    assert learned.fit.held_out["kl"] == kl[-1]


def test_the_regulariser_fades_unless_the_paper_s_form_is_asked_for(tiny_model, tmp_path):
    for decay in (True, False):
        learn(copy.deepcopy(tiny_model), tmp_path / str(decay), regularization=0.1, reg_decay=decay)
        weights = [
            (r["cross_entropy"] - r["loss"]) / r["squared_norm"] for r in records(tmp_path / str(decay))
        ]
        expected = [0.1 * (1 - step / 6) for step in range(6)] if decay else [0.1] * 6
        np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_a_layer_left_dense_has_no_mask(tiny_model, tmp_path):
    with pytest.raises(RecipeError, match=r"prior: model\.layers\.1.* is masked there and not here"):
        learn(tiny_model, tmp_path, dense=["layer 1"])
    prior = {name: numbers for name, numbers in prior_of(tiny_model).items() if ".layers.0." in name}
    assert set(learn(tiny_model, tmp_path, dense=["layer 1"], prior=prior).masks) == set(prior)


@pytest.mark.parametrize("gate_dtype", [torch.float32, torch.bfloat16])
def test_eight_bit_moments_resume_exactly_and_learn(tiny_model, tmp_path, gate_dtype):
    options = {"optimizer": AdamW8bit, "gate_dtype": gate_dtype}
    straight = learn(copy.deepcopy(tiny_model), tmp_path / "straight", **options)
    learn(copy.deepcopy(tiny_model), tmp_path / "stopped", until_step=3, **options)
    assert_same(straight, learn(tiny_model, tmp_path / "stopped", **options))
    moments = load_file(next((tmp_path / "straight").glob("checkpoints/step-*/optimizer-1-of-1.safetensors")))
    assert {t.dtype for name, t in moments.items() if name.endswith(":first")} == {torch.int8}
    logits = load_file(next((tmp_path / "straight").glob("checkpoints/step-*/model-1-of-1.safetensors")))
    assert {t.dtype for t in logits.values()} == {gate_dtype}


def test_eight_bit_adamw_follows_adamw():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(40, 3 * BLOCK // 40 + 1, generator=generator)
    ends = []
    for optimizer in (torch.optim.AdamW, AdamW8bit):
        weight = torch.nn.Parameter(torch.zeros_like(target))
        stepper = optimizer([weight], lr=0.02, betas=(0.9, 0.95), weight_decay=0.01)
        for _ in range(150):
            weight.grad = weight.detach() - target
            stepper.step()
        ends.append(weight.detach())
    assert float((ends[1] - ends[0]).abs().mean()) < 0.02 * float(target.abs().mean())


def test_a_bfloat16_weight_moves_on_average_by_updates_below_its_own_steps():
    weight = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    stepper = AdamW8bit([weight], lr=1e-4)  # a step of bfloat16 below one is 2**-8
    for _ in range(10):
        weight.grad = torch.ones_like(weight)
        stepper.step()
    assert float(weight.detach().float().mean()) == pytest.approx(1 - 10e-4, abs=3e-4)
