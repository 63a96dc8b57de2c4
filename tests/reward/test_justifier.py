"""The pairwise justifier: what it reads and writes, its training, both orders, and the verb."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.errors import RunError
from niwaki.ground.chat import Chat
from niwaki.ground.model import load_model, load_tokenizer
from niwaki.pipelines import publish
from niwaki.pipelines import reward as pipeline
from niwaki.pipelines.open_run import begin
from niwaki.recipe.load import build
from niwaki.recipe.reward import RewardRecipe
from niwaki.reward.forms import read_pair
from niwaki.reward.justifier import (
    JustificationRows,
    Question,
    encode_justifications,
    judge_both_orders,
    justifications,
    question,
    statement,
)
from niwaki.reward.records import Pair, exchanged
from tests.conftest import make_tiny_model

from .conftest import write_rows

TREES = ("pine", "maple", "juniper", "yew")


def test_what_it_reads_and_what_it_writes():
    asked = question([{"role": "user", "content": "p"}], "a", "b")
    assert asked == (
        "p\n@Response 1:\na\n@Response 2:\nb\nBetween @Response 1 and @Response 2, which is better?"
    )
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "z"},
    ]
    assert question(turns, "a", "b").startswith("User: x\nAssistant: y\nUser: z\n@Response 1:")
    assert [statement(m) for m in (-3, -2, -1)] == [
        f"@Response 1 is {words} than @Response 2." for words in ("much better", "better", "slightly better")
    ]
    assert statement(3) == "@Response 2 is much better than @Response 1."
    assert statement(0) == "@Response 1 is about the same as @Response 2."


@pytest.mark.parametrize("strength", [-2, 2])
def test_an_elaboration_follows_its_answer_into_either_order(strength):
    row = {
        "prompt": "Name a tree.",
        "response_1": "Pine.",
        "response_2": "Stone.",
        "preference_strength": strength,
        "preference_elaboration": "@Response 1 names one, @Response 2 does not.",
    }
    pair = read_pair(row, "row", "helpsteer2-preference")
    first, second = justifications(pair)
    # However it was kept, the example that shows response 1 first reads as it was written.
    as_written = first if strength < 0 else second
    assert as_written.prompt.index("Pine.") < as_written.prompt.index("Stone.")
    assert as_written.target == f"{row['preference_elaboration']} {statement(strength)}"
    other = second if strength < 0 else first
    assert other.target == f"{exchanged(row['preference_elaboration'])} {statement(-strength)}"
    assert "@Response 2 names one, @Response 1 does not." in other.target


def test_a_tie_has_a_verdict_of_its_own():
    pair = Pair("r", ({"role": "user", "content": "p"},), "a", "b", 1.0, 0.5)
    assert {j.target for j in justifications(pair)} == {statement(0)}


def test_only_the_target_counts_and_long_pairs_are_left_out_in_both_orders(tokenizer, pairs):
    chat = Chat(tokenizer)
    kept, skipped = encode_justifications(chat, pairs[:4], max_tokens=256)
    assert (len(kept), skipped) == (8, [])
    batch = JustificationRows(kept, batch_rows=8, seed=0).take(0, 8)
    for targets, mask in zip(batch["targets"], batch["mask"], strict=True):
        told = tokenizer.decode(targets[mask].tolist())
        assert told.startswith("@Response") or told.startswith("\n@Response")
        assert "Name" not in told
    lengths = sorted(len(ids) for ids, _ in kept)
    few, left = encode_justifications(chat, pairs[:4], max_tokens=lengths[len(lengths) // 2] - 1)
    assert len(few) % 2 == 0
    assert len(few) + 2 * len(left) == 8
    assert left[0].row in {pair.row for pair in pairs}


def odds_by_hand(model, chat, asked, wrote):
    """Both verdicts in full, one forward pass each."""
    prompt = chat.text([{"role": "user", "content": asked}], to_answer=True)
    found = []
    for strength in (-2, 2):
        ids = chat.tokenizer(prompt + wrote + statement(strength), add_special_tokens=False).input_ids
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(sum(float(logits[i - 1, ids[i]]) for i in range(1, len(ids))))
    return found[0] - found[1]


def test_the_odds_are_those_of_whole_verdicts_and_exchanging_flips_the_sign(tiny_model, tokenizer):
    chat, model = Chat(tokenizer), tiny_model.eval()
    ask = ({"role": "user", "content": "Tree?"},)
    one = Question(ask, "pine", "a stone, of which there are many")
    found = judge_both_orders(model, chat, [one, one.turned()])
    with torch.no_grad():
        assert found.odds[0, 0] == pytest.approx(odds_by_hand(model, chat, one.text(), ""), abs=1e-4)
    assert found.scores[0] == pytest.approx(-found.scores[1], abs=1e-6)
    assert found.written == ("", "")
    wrote = judge_both_orders(model, chat, [one, one.turned()], written_tokens=5)
    assert wrote.scores[0] == pytest.approx(-wrote.scores[1], abs=1e-6)
    with torch.no_grad():
        again = odds_by_hand(model, chat, one.text(), f"{wrote.written[0]} " if wrote.written[0] else "")
    assert wrote.odds[0, 0] == pytest.approx(again, abs=1e-4)


@pytest.fixture
def backbone(tmp_path, tokenizer):
    """A tiny model whose context holds both answers."""
    folder = tmp_path / "backbone"
    model = make_tiny_model()
    model.config.max_position_embeddings = 512
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe_of(backbone, tmp_path, **changes):
    rows = []
    for i in range(120):
        good, bad = f"{TREES[i % 4]} tree", "stone"
        about = f"@Response 1 is about {TREES[i % 4]}, @Response 2 is not."
        rows.append(
            {"prompt": f"Name {TREES[i % 4]} {i}.", "chosen": good, "rejected": bad, "elaboration": about}
        )
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    content = {
        "kind": "reward",
        "backbone": str(backbone),
        "data": {"pairs": [{"source": str(source)}], "validation": 0.2, "test": 0.2, "max_tokens": 128},
        "justifier": {
            "learning_rate": 3e-3,
            "batch_rows": 16,
            "micro_rows": 16,
            "epochs": 12,
            "warmup_steps": 1,
            "precision": "float32",
        },
    }
    return build(content | changes, RewardRecipe, name="test")


def test_a_recipe_of_a_justifier_alone_end_to_end(backbone, tmp_path, capsys):
    recipe = recipe_of(backbone, tmp_path)
    assert pipeline.check(recipe, out=tmp_path / "out", flops_per_s=1e9) == []
    assert "justify" in capsys.readouterr().out
    found = pipeline.run(recipe, out=tmp_path / "out")["justifier"]
    # So little training leaves a liking for a place, which the two orders cancel.
    assert found["judged"]["accuracy"]["mean"] > 0.7
    assert abs(found["better_first"] - found["better_second"]) > 0.5
    assert found["written_tokens"] > 10
    assert found["against_product"] is None
    assert not (tmp_path / "out" / "8-evaluate").exists()
    assert not (tmp_path / "out" / "9-justify" / "checkpoints").exists()
    shown = capsys.readouterr().out
    assert "the same answer in both orders" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Pairwise justifier" in page
    model = tmp_path / "out" / "9-justify" / "model"
    assert load_tokenizer(model).chat_template
    assert load_model(model).config.architectures == ["LlamaForCausalLM"]

    sent = publish.prepare(tmp_path / "out", "me/justifier", licence="mit", is_private=True)
    assert sent.folder == model
    assert {"justifier.json", "README.md", "chat_template.jinja", "model.safetensors"} <= set(sent.files)
    card = (model / "README.md").read_text()
    assert "a pairwise justifier" in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert f"{100 * found['judged']['accuracy']['mean']:.1f}" in card

    asked = write_rows(
        tmp_path / "asked.jsonl",
        [
            {"prompt": "Name yew 7.", "response": "stone", "other": "yew tree"},
            {"prompt": "Name yew 7.", "response": "yew tree", "other": "stone"},
        ],
    )
    verbs = CliRunner()
    told = verbs.invoke(app, ["reward", "justify", str(model), str(asked)])
    first, second = (json.loads(line) for line in told.stdout.splitlines()[-2:])
    assert {first["preferred"], second["preferred"]} == {"other", "response"}
    assert (first["preferred"] == "response") == (first["log_odds"] > 0)
    assert first["log_odds"] == pytest.approx(-second["log_odds"], abs=1e-5)
    assert "Response" in second["justification"]
    lacking = write_rows(tmp_path / "lacking.jsonl", [{"prompt": "p", "response": "a"}])
    assert (
        "lacking.jsonl:1: lacks 'other'"
        in verbs.invoke(app, ["reward", "justify", str(model), str(lacking)]).output
    )
    refused = verbs.invoke(app, ["reward", "justify", str(backbone), str(asked)])
    assert refused.exit_code != 0
    assert "was not trained to compare" in refused.output


def test_a_push_before_the_end_names_the_stage_that_makes_the_justifier(backbone, tmp_path):
    recipe = recipe_of(backbone, tmp_path)
    begin(tmp_path / "out", recipe, {}, {})
    with pytest.raises(RunError, match="stage 9-justify has not finished"):
        publish.prepare(tmp_path / "out", "me/justifier", licence="mit", is_private=True)


def test_beside_a_scalar_model_it_is_compared_with_it_on_the_same_pairs(backbone, tmp_path):
    training = {
        "learning_rate": 1e-3, "batch_rows": 16, "micro_rows": 8, "warmup_steps": 1, "precision": "float32",
    }  # fmt: skip
    recipe = recipe_of(
        backbone, tmp_path, preference=training, lora={"rank": 4},
        justifier=training | {"written_tokens": 0},
    )  # fmt: skip
    found = pipeline.run(recipe, out=tmp_path / "out")
    against = found["justifier"]["against_product"]
    assert against["model"] == "preference"
    scalar = found["sets"]["test"]["models"]["preference"]["accuracy"]["mean"]
    own = found["justifier"]["judged"]["accuracy"]["mean"]
    assert against["mean"] == pytest.approx(own - scalar)
    assert np.isfinite(own)


def test_questions_that_are_all_too_long_are_found_before_anything_runs(backbone, tmp_path):
    recipe = recipe_of(backbone, tmp_path, justifier={"max_tokens": 20})
    (problem,) = pipeline.check(recipe, out=tmp_path / "out", flops_per_s=1e9)
    assert "all of the first 64 questions are longer than 20 tokens" in str(problem)
    assert not (tmp_path / "out").exists()


def test_a_model_that_keeps_no_cache_is_run_in_full(tiny_model, tokenizer):
    chat, model = Chat(tokenizer), tiny_model.eval()
    one = Question(({"role": "user", "content": "Tree?"},), "pine", "a stone")
    cached = judge_both_orders(model, chat, [one])
    model.config.use_cache = False

    class Cacheless(torch.nn.Module):
        device = model.device

        def forward(self, input_ids, use_cache=False):
            return model(input_ids=input_ids, use_cache=False)

    assert judge_both_orders(Cacheless(), chat, [one]).odds == pytest.approx(cached.odds, abs=1e-4)
