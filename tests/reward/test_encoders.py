"""Encoders as frozen backbones: heads on their mean states, in a form of their own."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.errors import CheckpointError, RecipeError
from niwaki.ground.chat import PLAIN_ENCODER_TEMPLATE, Chat
from niwaki.pipelines import reward as pipeline
from niwaki.reward.features import load_extractor, states
from niwaki.reward.model import load_backbone, load_reward_model, reads_last_token
from niwaki.reward.scorer import load_scorer
from niwaki.reward.tokens import encode_pairs

from .conftest import recipe_of, write_rows

NO_TRAINING = {"regression": None, "preference": None, "expo": None, "export": {}}


def test_its_plain_template_opens_and_closes_with_its_own_tokens(encoder):
    extractor = load_extractor(encoder)
    tokenizer = extractor.chat.tokenizer
    assert tokenizer.chat_template == PLAIN_ENCODER_TEMPLATE
    talk = extractor.chat.conversation([{"role": "user", "content": "Name a tree."}], "Pine.")
    told = tokenizer.convert_ids_to_tokens(talk.ids)
    assert (told[0], told[-1], told[talk.prompt_end]) == ("[CLS]", "[SEP]", "[SEP]")
    assert told.count("[SEP]") == 2
    assert isinstance(extractor.chat, Chat)


def test_states_are_means_and_do_not_see_the_padding(encoder, pairs):
    extractor = load_extractor(encoder)
    assert extractor.pooling == "mean"
    tokens, _ = encode_pairs(extractor.chat, pairs[:4], max_tokens=128)
    together, prompts = states(extractor, tokens.chosen)
    alone, _ = states(extractor, tokens.chosen[1:2])
    assert alone[0].numpy() == pytest.approx(together[1].numpy(), abs=1e-5)
    # The prompt is run alone, so what follows it does not change its state.
    _, other = states(extractor, tokens.rejected)
    assert prompts.numpy() == pytest.approx(other.numpy(), abs=1e-5)
    c = tokens.chosen[0]
    hidden = extractor.model(input_ids=torch.tensor([c.ids])).last_hidden_state[0].detach()
    assert together[0].numpy() == pytest.approx(hidden[c.prompt_end + 1 :].mean(0).numpy(), abs=1e-5)


def test_a_run_on_an_encoder_scores_ranks_and_explains(encoder, tmp_path):
    recipe = recipe_of(encoder, tmp_path, **NO_TRAINING)
    out = tmp_path / "out"
    assert pipeline.check(recipe, out=out, flops_per_s=1e9) == []
    results = pipeline.run(recipe, out=out)
    judged = results["sets"]["test"]
    assert judged["final"] == "objectives"
    assert judged["models"]["objectives"]["accuracy"]["mean"] > 0.9
    model = out / "7-calibrate" / "model"
    card = json.loads((model / "reward.json").read_text())
    assert card["pooling"] == "mean"
    # The encoder itself is stock and unchanged.
    stock, first = AutoModel.from_pretrained(model), AutoModel.from_pretrained(encoder)
    for name, tensor in first.state_dict().items():
        kept = stock.state_dict()[name]
        assert torch.equal(kept[: len(tensor)] if tensor.ndim else kept, tensor), name
    scorer = load_scorer(model)
    talk = [scorer.conversation("Name yew 3.", a) for a in ("yew tree", "stone")]
    scores = scorer.score_rendered(talk)
    by_hand = scorer.states(talk)[0] @ scorer.objectives.folded()[0]
    assert scores == pytest.approx(by_hand, abs=1e-6)
    asked = write_rows(
        tmp_path / "asked.jsonl", [{"prompt": "Name yew 3.", "responses": ["stone", "yew tree"]}]
    )
    verbs = CliRunner()
    ranked = verbs.invoke(app, ["reward", "rank", str(model), str(asked)])
    assert json.loads(ranked.stdout.splitlines()[-1])["responses"] == ["yew tree", "stone"]
    one = write_rows(tmp_path / "one.jsonl", [{"prompt": "Name yew 3.", "response": "yew tree"}])
    row = json.loads(
        verbs.invoke(app, ["reward", "explain", str(model), str(one), "--json"]).stdout.splitlines()[-1]
    )
    told = row["explanations"][0]
    assert sum(o["part"] for o in told["objectives"]) == pytest.approx(told["score"], rel=1e-5)
    # Nothing else may take it for a classifier.
    with pytest.raises(CheckpointError):
        load_reward_model(model)
    assert "architecture" in verbs.invoke(app, ["lint", str(model)]).output


def test_what_only_a_causal_model_can_is_refused_of_an_encoder_before_work(encoder, backbone, tmp_path):
    assert not reads_last_token(encoder)
    assert reads_last_token(backbone)
    recipe = recipe_of(encoder, tmp_path)
    (problem,) = pipeline.check(recipe, out=tmp_path / "out", flops_per_s=1e9)
    assert "is an encoder" in str(problem)
    assert "regression, preference, export.forms" in str(problem)
    with pytest.raises(RecipeError, match="is an encoder"):
        pipeline.run(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError):
        load_backbone(encoder)


def test_conversations_longer_than_its_positions_are_left_out(encoder, tmp_path):
    recipe = recipe_of(encoder, tmp_path, **NO_TRAINING)
    from niwaki.pipelines.reward_inputs import RewardInputs

    inputs = RewardInputs(
        recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_tokens": 999})}), tmp_path
    )
    assert inputs.max_tokens == 128
    assert np.isfinite(inputs.max_tokens)
