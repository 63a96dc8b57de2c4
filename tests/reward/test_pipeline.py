"""The whole line on a tiny model: every section, resumed, with the verbs that use what it made."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.errors import DataError, RecipeError
from niwaki.pipelines import reward as pipeline
from niwaki.pipelines import reward_train
from niwaki.recipe.reward import starter
from niwaki.reward.features import Features, cache_pairs, load_extractor, read_published
from niwaki.reward.scorer import load_scorer
from niwaki.reward.tokens import encode_pairs

from .conftest import recipe_of, write_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of everything."""
    from tests.conftest import make_tiny_model

    folder = tmp_path_factory.mktemp("reward")
    make_tiny_model().save_pretrained(folder / "backbone")
    return folder


def test_the_line_end_to_end(run, tokenizer, capsys):
    tokenizer.save_pretrained(run / "backbone")
    recipe = recipe_of(run / "backbone", run)
    assert pipeline.check(recipe, out=run / "out", flops_per_s=1e9) == []
    results = pipeline.run(recipe, out=run / "out")
    judged = results["sets"]["test"]
    assert judged["final"] == "objectives"
    assert judged["models"]["objectives"]["accuracy"]["mean"] > 0.9
    assert judged["models"]["preference"]["accuracy"]["mean"] > 0.9
    assert set(judged["models"]) >= {"regression", "ExPO", "objectives, prompt gate", "longer answer", "coin"}
    counts = json.loads((run / "out" / "1-data" / "data.json").read_text())["counts"]
    assert sum(counts["pairs"].values()) == 120
    groups = [
        {json.loads(line)["prompt"][0]["content"] for line in file.read_text().splitlines()}
        for side in ("train", "validation", "test")
        for file in [run / "out" / "1-data" / f"{kind}-{side}.jsonl" for kind in ("pairs",)]
    ]
    assert len(groups[0] | groups[1] | groups[2]) == sum(map(len, groups))
    record = json.loads((run / "out" / "6-objectives" / "objectives.json").read_text())
    assert np.abs([c for c in record["debiasing"]["reference_after"][0] if c is not None]).max() <= 0.03
    page = (run / "out" / "report.html").read_text()
    assert "Errors worth reading" in page or judged["errors"] == []
    assert "Objectives" in page
    assert "Calibration" in page
    card = (run / "out" / "7-calibrate" / "model" / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    row = next(line for line in card.splitlines() if line.startswith("| Test pairs, objectives"))
    assert f"{100 * judged['models']['objectives']['accuracy']['mean']:.1f}" in row
    assert str(run) not in card
    assert not list((run / "out").rglob("checkpoints"))
    assert not list((run / "out").rglob("step-*"))
    # Nothing is done twice.
    before = (run / "out" / "2-regress" / "DONE").stat().st_mtime_ns
    pipeline.run(recipe, out=run / "out")
    assert (run / "out" / "2-regress" / "DONE").stat().st_mtime_ns == before
    capsys.readouterr()

    verbs = CliRunner()
    model = str(run / "out" / "7-calibrate" / "model")
    assert verbs.invoke(app, ["lint", model]).output == "No known fault.\n"
    assert verbs.invoke(app, ["lint", str(run / "backbone")]).exit_code == 1
    asked = write_rows(
        run / "asked.jsonl", [{"prompt": "Name pine 7.", "response": "pine tree", "other": "stone"}]
    )
    explained = verbs.invoke(app, ["reward", "explain", model, str(asked), "--json"])
    row = json.loads(explained.stdout.splitlines()[-1])
    first = row["explanations"][0]
    assert sum(o["part"] for o in first["objectives"]) == pytest.approx(first["score"])
    assert row["difference"]["score"] == pytest.approx(first["score"] - row["explanations"][1]["score"])
    assert "helpfulness" in verbs.invoke(app, ["reward", "explain", model, str(asked)]).output
    gated = verbs.invoke(app, ["reward", "score", model, str(asked), "--prompt-gate"])
    assert json.loads(gated.stdout.splitlines()[-1])["score"] == pytest.approx(first["score"], rel=1e-4)
    many = write_rows(
        run / "many.jsonl", [{"prompt": "Name pine 7.", "responses": ["stone", "pine tree pine"]}]
    )
    ranked = json.loads(verbs.invoke(app, ["reward", "rank", model, str(many)]).stdout.splitlines()[-1])
    assert ranked["responses"] == ["pine tree pine", "stone"]
    assert ranked["scores"] == sorted(ranked["scores"], reverse=True)
    bad = write_rows(run / "bad.jsonl", [{"prompt": "Name pine 7."}])
    assert "bad.jsonl:1: lacks 'response'" in verbs.invoke(app, ["reward", "score", model, str(bad)]).output

    from niwaki.reward.model import load_reward_model, score_conversations

    scorer = load_scorer(model)
    heads = load_reward_model(run / "out" / "6-objectives" / "heads")
    talk = [scorer.conversation("Name yew 3.", a) for a in ("yew tree", "stone")]
    objectives = scorer.objectives
    states, _ = scorer.states(talk)
    found = score_conversations(heads, talk)
    assert found == pytest.approx(objectives.rewards(states) @ objectives.transform, abs=1e-4)
    assert score_conversations(scorer.model, talk)[:, 0] == pytest.approx(objectives.score(states), abs=1e-4)


def test_a_kill_after_the_snapshots_are_gone_trains_nothing_again(run, tokenizer, tmp_path, monkeypatch):
    tokenizer.save_pretrained(run / "backbone")
    recipe = recipe_of(run / "backbone", tmp_path, objectives=None, export={})

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(reward_train, "sweep", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe, out=tmp_path / "out")
    monkeypatch.undo()
    for stage in ("2-regress", "3-prefer"):
        (tmp_path / "out" / stage / "DONE").rename(tmp_path / "out" / stage / "BEGUN")
    monkeypatch.setattr(reward_train, "train", lambda *arguments, **options: pytest.fail("it trains again"))
    assert pipeline.run(recipe, out=tmp_path / "out")["sets"]["test"]["models"]["ExPO"]


@pytest.mark.parametrize(
    "changes, complaint",
    [
        (
            {"regression": None, "preference": None, "objectives": None, "expo": None, "export": {}},
            "nothing is trained",
        ),
        ({"regression": None}, "expo steps from regression"),
        ({"data": {"pairs": [{"source": "a"}]}}, "needs ratings"),
        ({"data": {"ratings": [{"source": "a"}]}}, "needs pairs"),
        ({"preference": {"batch_rows": 10, "micro_rows": 4}}, "no multiple"),
        ({"objectives": {"gate": {"kind": "fixed"}}}, "gated needs"),
    ],
)
def test_recipes_that_cannot_work_are_refused(backbone, tmp_path, changes, complaint):
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(backbone, tmp_path, **changes)


def test_problems_are_found_before_anything_runs(backbone, tmp_path, capsys):
    recipe = recipe_of(backbone, tmp_path, objectives={"names": ["safety"]}, export={})
    (problem,) = pipeline.check(recipe, out=tmp_path / "out", flops_per_s=1e9)
    assert "objective 'safety' has no labels" in str(problem)
    large = recipe_of(backbone, tmp_path, preference={"batch_rows": 512})
    assert "do not fill one batch of 512" in str(
        pipeline.check(large, out=tmp_path / "o", flops_per_s=1e9)[0]
    )
    assert not (tmp_path / "out").exists()
    assert starter().backbone == "sapling"


def test_features_resume_and_refuse_other_rows(backbone, pairs, tmp_path):
    extractor = load_extractor(backbone)
    tokens, _ = encode_pairs(extractor.chat, pairs, max_tokens=128)
    first = cache_pairs(extractor, tokens, tmp_path / "cache", shard_rows=10)
    whole = first.read("states")
    assert first.meta["rows"] == [p.row for p in pairs]
    (tmp_path / "cache" / "features-00002.safetensors").unlink()
    again = cache_pairs(extractor, tokens, tmp_path / "cache", shard_rows=10)
    assert np.array_equal(again.read("states"), whole)
    fewer, _ = encode_pairs(extractor.chat, pairs[:20], max_tokens=128)
    with pytest.raises(DataError, match="other rows or another model"):
        cache_pairs(extractor, fewer, tmp_path / "cache", shard_rows=10)
    with pytest.raises(DataError, match="no feature cache"):
        Features(tmp_path)


def test_states_do_not_depend_on_the_batch_and_prompts_are_shared(backbone, pairs):
    from niwaki.reward.features import states

    extractor = load_extractor(backbone)
    tokens, _ = encode_pairs(extractor.chat, pairs[:6], max_tokens=128)
    together, ends = states(extractor, tokens.chosen)
    for i, conversation in enumerate(tokens.chosen):
        alone, _ = states(extractor, [conversation])
        assert alone[0].numpy() == pytest.approx(together[i].numpy(), abs=1e-5)
    _, other_ends = states(extractor, tokens.rejected)
    assert ends.numpy() == pytest.approx(other_ends.numpy(), abs=1e-5)


def test_means_are_over_the_answer_and_prompts_do_not_see_it(backbone, pairs):
    from niwaki.reward.features import states

    extractor = load_extractor(backbone, pooling="mean")
    tokens, _ = encode_pairs(extractor.chat, pairs[:4], max_tokens=128)
    together, prompts = states(extractor, tokens.chosen)
    alone, _ = states(extractor, tokens.chosen[1:2])
    assert alone[0].numpy() == pytest.approx(together[1].numpy(), abs=1e-5)
    _, other = states(extractor, tokens.rejected)
    assert prompts.numpy() == pytest.approx(other.numpy(), abs=1e-5)
    c = tokens.chosen[0]
    import torch

    hidden = extractor.model(input_ids=torch.tensor([c.ids])).last_hidden_state[0].detach()
    assert together[0].numpy() == pytest.approx(hidden[c.prompt_end + 1 :].mean(0).numpy(), abs=1e-5)
    assert prompts[0].numpy() == pytest.approx(hidden[: c.prompt_end + 1].mean(0).numpy(), abs=1e-5)


def test_the_published_layout_is_read(tmp_path):
    from safetensors.numpy import save_file

    prompts = np.ones((3, 2, 4), np.float32)
    save_file({"embeddings": np.zeros((3, 2, 4), np.float32), "prompt_embeddings": prompts}, tmp_path / "a")
    assert read_published(tmp_path / "a")["prompts"].shape == (3, 4)
    prompts[1, 0] = 5
    save_file({"embeddings": np.zeros((3, 2, 4), np.float32), "prompt_embeddings": prompts}, tmp_path / "a")
    with pytest.raises(DataError, match="pair 1 has two different"):
        read_published(tmp_path / "a")
