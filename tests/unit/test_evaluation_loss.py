"""Held-out loss: equal to the plain computation, whatever the batching, and never silent about NaN."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from niwaki.errors import EvaluationError
from niwaki.evaluation import loss
from niwaki.evaluation.loss import held_out_loss

VOCAB_SIZE = 97


class FixedRows:
    """Ten rows of 24 positions with ragged padding on the right."""

    num_rows = 10

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, VOCAB_SIZE, (10, 25), generator=generator)
        lengths = torch.tensor([24, 3, 17, 24, 9, 24, 1, 20, 24, 12])
        self.mask = torch.arange(24)[None] < lengths[:, None]

    def take(self, start, count):
        stop = start + count
        assert stop <= self.num_rows
        tokens = self.tokens[start:stop]
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "mask": self.mask[start:stop]}


def tiny_llama(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    defaults = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.3}
    config = LlamaConfig(**(defaults | sizes | changes))
    return LlamaForCausalLM(config).eval()


def tiny_gemma2():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Gemma2Config(
        vocab_size=VOCAB_SIZE, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, **sizes
    )
    return Gemma2ForCausalLM(config).eval()


@torch.no_grad()
def plain_log_probabilities(model, rows):
    batch = rows.take(0, rows.num_rows)
    return model(input_ids=batch["inputs"]).logits.double().log_softmax(-1), batch


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma2])
def test_loss_and_divergence_equal_the_plain_computation(make, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 7)  # chunks that end inside rows
    rows, model, teacher = FixedRows(), make(), tiny_llama(seed=1)
    found = held_out_loss(model, rows, num_rows=10, batch_rows=4, teacher=teacher, bytes_per_token=3.5)

    ours, batch = plain_log_probabilities(model, rows)
    theirs, _ = plain_log_probabilities(teacher, rows)
    mask = batch["mask"]
    nats = F.nll_loss(ours[mask], batch["targets"][mask])
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)[mask].mean()
    assert found.num_tokens == int(mask.sum())
    assert found.nats_per_token.mean == pytest.approx(nats.item(), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats.item()), rel=1e-4)
    assert found.bits_per_byte.mean == pytest.approx(nats.item() / math.log(2) / 3.5, rel=1e-5)
    assert found.kl_to_teacher.mean == pytest.approx(divergence.item(), rel=1e-4)
    assert sum(found.row_nats) / sum(found.row_tokens) == pytest.approx(found.nats_per_token.mean)
    assert found.nats_per_token.low < found.nats_per_token.mean < found.nats_per_token.high


def test_a_model_has_no_divergence_from_itself_and_a_uniform_model_the_known_loss():
    rows, model = FixedRows(), tiny_llama()
    assert held_out_loss(model, rows, num_rows=10, batch_rows=10, teacher=model).kl_to_teacher.mean < 1e-6
    torch.nn.init.zeros_(model.lm_head.weight)
    uniform = held_out_loss(model, rows, num_rows=10, batch_rows=10)
    assert uniform.nats_per_token.mean == pytest.approx(math.log(VOCAB_SIZE), rel=1e-6)
    assert uniform.kl_to_teacher is None
    assert uniform.bits_per_byte is None


def test_the_batch_size_changes_nothing():
    rows, model, teacher = FixedRows(), tiny_llama(), tiny_llama(seed=1)
    one, three, all_rows = (
        held_out_loss(model, rows, num_rows=10, batch_rows=n, teacher=teacher) for n in (1, 3, 10)
    )
    assert one.row_nats == pytest.approx(three.row_nats, rel=1e-5)
    assert one.row_nats == pytest.approx(all_rows.row_nats, rel=1e-5)
    assert one.kl_to_teacher.mean == pytest.approx(all_rows.kl_to_teacher.mean, rel=1e-5)
    assert one.row_tokens == three.row_tokens == all_rows.row_tokens


def test_what_stands_in_the_padding_changes_nothing():
    rows, model = FixedRows(), tiny_llama()
    before = held_out_loss(model, rows, num_rows=10, batch_rows=4)
    rows.tokens[:, 1:][~rows.mask] = 5
    assert held_out_loss(model, rows, num_rows=10, batch_rows=4).row_nats == before.row_nats


def test_rows_are_never_counted_twice():
    rows, model = FixedRows(), tiny_llama()
    assert held_out_loss(model, rows, num_rows=1000, batch_rows=4).num_rows == 10


def test_bfloat16_logits_are_normalised_in_float32():
    rows, model = FixedRows(), tiny_llama(initializer_range=0.02).bfloat16()
    found = held_out_loss(model, rows, num_rows=10, batch_rows=5)
    ours, batch = plain_log_probabilities(model, rows)
    mask = batch["mask"]
    assert found.nats_per_token.mean == pytest.approx(
        F.nll_loss(ours[mask], batch["targets"][mask]).item(), rel=1e-5
    )


def test_logits_exist_for_one_chunk_at_a_time(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 8)
    sizes = []
    logits = loss.Head.logits
    monkeypatch.setattr(
        loss.Head, "logits", lambda self, hidden: sizes.append(len(hidden)) or logits(self, hidden)
    )
    monkeypatch.setattr(loss, "check_head", lambda model: None)
    held_out_loss(tiny_llama(), FixedRows(), num_rows=10, batch_rows=10)
    assert max(sizes) == 8


def test_the_model_stays_in_training_mode_and_dropout_is_off_meanwhile():
    model = tiny_llama(attention_dropout=0.5)
    expected = held_out_loss(model, FixedRows(), num_rows=10, batch_rows=5).row_nats
    model.train()
    assert held_out_loss(model, FixedRows(), num_rows=10, batch_rows=5).row_nats == expected
    assert model.training


def test_the_result_is_json():
    found = held_out_loss(tiny_llama(), FixedRows(), num_rows=10, batch_rows=5, bytes_per_token=2.0)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["nats_per_token"]["mean"] > 0


def test_faults_are_named():
    rows, model = FixedRows(), tiny_llama()
    with pytest.raises(EvaluationError, match="1 held-out rows"):
        held_out_loss(model, rows, num_rows=1, batch_rows=1)
    with pytest.raises(EvaluationError, match="97 tokens and its teacher 50"):
        held_out_loss(
            model, rows, num_rows=4, batch_rows=2, teacher=tiny_llama(pad_token_id=0, vocab_size=50)
        )
    torch.nn.init.constant_(model.model.layers[1].mlp.down_proj.weight, float("nan"))
    with pytest.raises(EvaluationError, match="row 0 is not finite"):
        held_out_loss(model, rows, num_rows=4, batch_rows=2)
