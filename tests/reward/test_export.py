"""A saved reward model scores the same wherever it is read, and meets the contract of engines."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from niwaki.errors import CheckpointError
from niwaki.reward.export import meet_contract, save_reward_model
from niwaki.reward.lint import lint
from niwaki.reward.model import load_backbone, load_reward_model, score_conversations
from niwaki.reward.tokens import PairRows, RatingRows, encode_pairs, encode_ratings
from niwaki.reward.train import merged, preference_loss, rating_loss, train, with_lora

from .conftest import CHATML

ASKED = [
    ("Name a tree.", "Pine."),
    ("Name a tree.", "A pine, shaped over many years."),
    ("Why?", "Roots first, then."),
]


@pytest.fixture
def saved(backbone, tmp_path):
    """A model with a random head, in memory and on disk."""
    scorable = load_backbone(backbone)
    torch.manual_seed(1)
    torch.nn.init.normal_(scorable.model.score.weight)
    out = tmp_path / "model"
    check = save_reward_model(scorable, out, card={"loss": "test"})
    return scorable, out, check


def messages(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_scores_are_the_same_in_memory_reloaded_batched_padded_and_through_trl(saved):
    scorable, out, check = saved
    assert check.largest < 1e-5
    conversations = [scorable.chat.conversation(messages(*a)[:1], a[1]) for a in ASKED]
    expected = score_conversations(scorable, conversations)[:, 0]
    one_by_one = [score_conversations(scorable, [c])[0, 0] for c in conversations]
    assert one_by_one == pytest.approx(expected, abs=1e-5)
    reloaded = score_conversations(load_reward_model(out), conversations)[:, 0]
    assert reloaded == pytest.approx(expected, abs=1e-6)
    # What TRL's GRPO does with `reward_funcs="path"`.
    model = AutoModelForSequenceClassification.from_pretrained(out, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id
    from trl.data_utils import apply_chat_template

    texts = [apply_chat_template({"messages": messages(*a)}, tokenizer)["text"] for a in ASKED]
    for side in ("right", "left"):
        batch = tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False
        )
        with torch.inference_mode():
            assert model(**batch).logits[:, 0].tolist() == pytest.approx(expected, abs=1e-5)
    # What its PPO does.
    from trl.experimental.utils import get_reward

    batch = tokenizer(
        text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
    )
    with torch.inference_mode():
        _, scores, _ = get_reward(model, batch.input_ids, tokenizer.pad_token_id, 0)
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_contract(saved):
    _, out, _ = saved
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["problem_type"] == "regression"
    assert config["id2label"] == {"0": "reward"}
    assert config["pad_token_id"] not in (config["eos_token_id"], None)
    with safe_open(out / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert file.get_tensor("score.weight").shape == (1, 32)
    assert "score.bias" not in names
    assert "lm_head.weight" not in names
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert json.loads((out / "reward.json").read_text()) == {"loss": "test"}
    assert lint(out) == []


def test_a_head_that_would_be_random_is_refused(backbone):
    with pytest.raises(CheckpointError, match="scores would be random"):
        load_reward_model(backbone)


def test_padding_that_ends_the_text_is_not_saved(saved):
    scorable, _, _ = saved
    scorable.chat.tokenizer.pad_token = scorable.chat.tokenizer.eos_token
    with pytest.raises(CheckpointError, match="another token"):
        meet_contract(scorable)


def test_a_model_that_differs_once_saved_is_refused(saved, tmp_path, monkeypatch):
    scorable, _, _ = saved
    monkeypatch.setattr(
        type(scorable.model), "save_pretrained", _damaged(type(scorable.model).save_pretrained)
    )
    with pytest.raises(CheckpointError, match="differ from those in memory"):
        save_reward_model(scorable, tmp_path / "other", card={})
    assert not (tmp_path / "other").exists()


def _damaged(save):
    def damaged(model, folder):
        model.score.weight.data += 1
        save(model, folder)
        model.score.weight.data -= 1

    return damaged


def test_the_next_stage_keeps_the_head_row_of_its_name(backbone, tmp_path):
    first = load_backbone(backbone, labels=("helpfulness", "verbosity"))
    torch.nn.init.normal_(first.model.score.weight)
    save_reward_model(first, tmp_path / "two", card={})
    one = load_backbone(tmp_path / "two")
    assert torch.equal(one.model.score.weight[0], first.model.score.weight[0])
    other = load_backbone(tmp_path / "two", labels=("verbosity",))
    assert torch.equal(other.model.score.weight[0], first.model.score.weight[1])
    assert one.model.config.num_labels == 1
    save_reward_model(one, tmp_path / "one", card={})


def test_training_learns_the_pairs_and_resumes_to_the_same_weights(backbone, pairs, tmp_path):
    def run(folder, until):
        scorable = load_backbone(backbone)
        tokens, _ = encode_pairs(scorable.chat, pairs, max_tokens=128)
        rows = PairRows(tokens, pad_id=scorable.pad_id, batch_rows=8, seed=0)
        for stop in until:
            if stop:
                scorable = load_backbone(backbone) if stop > 4 and len(until) > 1 else scorable
            result = train(
                scorable.model, rows, preference_loss("scaled"), out=folder, num_steps=10, until_step=stop,
                batch_rows=8, micro_rows=4, learning_rate=1e-3, head_rate_factor=5, warmup_steps=2,
                held_out=rows, held_out_rows=40, save_every_steps=4,
            )  # fmt: skip
        return scorable.model, result

    whole, result = run(tmp_path / "whole", [None])
    assert result.held_out["accuracy"] == 1.0
    assert result.held_out["loss"] < 0.6
    parts, _ = run(tmp_path / "parts", [4, 10])
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_margin_changes_the_loss(backbone, pairs):
    scorable = load_backbone(backbone)
    torch.nn.init.normal_(scorable.model.score.weight)
    tokens, _ = encode_pairs(scorable.chat, pairs, max_tokens=128)
    batch = PairRows(tokens, pad_id=scorable.pad_id, batch_rows=8, seed=None).take(0, 8)
    losses = {
        form: float(preference_loss(form)(scorable.model, batch)[0])
        for form in ("regular", "margin", "scaled")
    }
    assert len(set(losses.values())) == 3
    batch["strength"] = torch.ones(8)
    assert float(preference_loss("scaled")(scorable.model, batch)[0]) == pytest.approx(losses["regular"])


def test_ratings_train_every_head_and_missing_ones_do_not_count(backbone, ratings, tmp_path):
    scorable = load_backbone(backbone, labels=("helpfulness", "verbosity"))
    tokens, _ = encode_ratings(scorable.chat, ratings, ("helpfulness", "verbosity"), max_tokens=128)
    rows = RatingRows(tokens, pad_id=scorable.pad_id, batch_rows=16, seed=0)
    assert int(rows.take(0, 80)["mask"].sum()) == 160 - int(np.isnan(tokens.labels).sum())
    result = train(
        scorable.model, rows, rating_loss, out=tmp_path, num_steps=30, batch_rows=16, micro_rows=8,
        learning_rate=3e-3, head_rate_factor=3, held_out=rows, held_out_rows=80,
    )  # fmt: skip
    assert result.held_out["loss"] < 2.0


def test_rows_do_not_depend_on_micro_batches(backbone, pairs):
    scorable = load_backbone(backbone)
    tokens, _ = encode_pairs(scorable.chat, pairs, max_tokens=128)
    rows = PairRows(tokens, pad_id=scorable.pad_id, batch_rows=8, seed=3)
    taken = [rows._order.places(start, 4) for start in range(0, 40, 4)]
    assert sorted(place for part in taken for place in part) == list(range(40))
    assert [*taken[0], *taken[1]] == rows._order.places(0, 8)


def test_too_long_rows_are_named(backbone, pairs):
    scorable = load_backbone(backbone)
    _, skipped = encode_pairs(scorable.chat, pairs, max_tokens=50)
    assert 0 < len(skipped) < 40
    assert all("longer than 50 tokens" in s.reason for s in skipped)


def test_lora_merges_into_the_plain_model(backbone, pairs, tmp_path):
    scorable = load_backbone(backbone)
    tokens, _ = encode_pairs(scorable.chat, pairs, max_tokens=128)
    rows = PairRows(tokens, pad_id=scorable.pad_id, batch_rows=8, seed=0)
    model = with_lora(scorable.model, rank=2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained < 0.2 * sum(p.numel() for p in model.parameters())
    result = train(
        model, rows, preference_loss("regular"), out=tmp_path / "run", num_steps=12, batch_rows=8,
        micro_rows=8, learning_rate=3e-3, head_rate_factor=3, held_out=rows, held_out_rows=40,
    )  # fmt: skip
    assert result.held_out["accuracy"] == 1.0
    plain = type(scorable)(merged(model), scorable.chat)
    assert type(plain.model).__name__ == "LlamaForSequenceClassification"
    assert save_reward_model(plain, tmp_path / "merged", card={}).largest < 1e-4


def test_another_template_is_saved_with_the_model(backbone, tmp_path, tokenizer):
    scorable = load_backbone(backbone, template=CHATML)
    torch.nn.init.normal_(scorable.model.score.weight)
    save_reward_model(scorable, tmp_path / "model", card={})
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == CHATML
