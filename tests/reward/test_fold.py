"""What calibration writes is exact: once reloaded, the folded head gives log-odds, and the line units."""

import json
import random

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from niwaki.pipelines import reward as pipeline
from niwaki.reward.calibrate import fit_affine, fit_temperature
from niwaki.reward.model import load_reward_model
from niwaki.reward.objectives import load_objectives
from niwaki.reward.scorer import load_scorer

from .conftest import TRAINING, recipe_of, write_rows


def noisy(tmp_path):
    """Pairs of which a quarter is the wrong way round, so that there is a temperature; and ratings."""
    rng, pairs, rated = random.Random(0), [], []
    for i in range(160):
        ask, good, bad = f"Name a tree {i}.", "pine tree " * (1 + i % 3), "stone " * (1 + i % 4)
        chosen, rejected = (good, bad) if rng.random() < 0.75 else (bad, good)
        pairs.append({"prompt": ask, "chosen": chosen, "rejected": rejected})
        for answer, value in ((good, 3.5), (bad, 1.0)):
            rating = {"helpfulness": value + rng.random() - 0.5, "style": value / 2 + rng.random()}
            rated.append({"prompt": ask, "response": answer, **rating})
    return write_rows(tmp_path / "noisy.jsonl", pairs), write_rows(tmp_path / "rated.jsonl", rated)


def runs(backbone, tmp_path, **sections):
    """The same recipe with the temperature beside the model, and folded into it."""
    pairs, rated = noisy(tmp_path)
    data = {
        "pairs": [{"source": str(pairs)}],
        "ratings": [{"source": str(rated), "scale": [0, 4]}],
        "validation": 0.25,
        "test": 0.1,
        "max_tokens": 128,
    }
    found = {}
    for fold in (False, True):
        changes = SCORING | {"data": data, "export": {"fold_temperature": fold}} | sections
        out = tmp_path / f"fold-{fold}"
        pipeline.run(recipe_of(backbone, tmp_path, **changes), out=out)
        found[fold] = out / "7-calibrate" / "model"
    return found[False], found[True]


SCORING = {"regression": None, "preference": None, "expo": None, "objectives": None}
OBJECTIVES = {"ensemble": 3, "nuisances": [], "gate": {"width": 8, "steps": 10, "batch_rows": 32}}
ASKED = [("Name a tree 7.", "pine tree"), ("Name a tree 7.", "stone stone"), ("Why?", "pine tree pine tree")]


def check_fold(plain, folded, tolerance):
    """Scores of the two differ by the temperature alone, by every way to a score; and so do the units."""
    before = json.loads((plain / "reward.json").read_text())["calibration"]
    after = json.loads((folded / "reward.json").read_text())["calibration"]
    temperature = before["temperature"]
    assert temperature > 0
    assert abs(temperature - 1) > 0.05
    assert (after["folded_temperature"], after["temperature"]) == (pytest.approx(temperature), 1.0)
    prompts, answers = zip(*ASKED, strict=True)
    first, second = load_scorer(plain), load_scorer(folded)
    scores, in_logits = (s.score(prompts, answers) for s in (first, second))
    assert in_logits == pytest.approx(scores / temperature, abs=tolerance)
    # The line to the units of the ratings, and the numbers for servers, are of the scores as saved.
    lines = [
        c["affine"]["slope"] * s + c["affine"]["offset"] for c, s in ((before, scores), (after, in_logits))
    ]
    assert lines[1] == pytest.approx(lines[0], abs=1e-4)
    standard = [(s - c["logit_mean"]) / c["logit_sigma"] for c, s in ((before, scores), (after, in_logits))]
    assert standard[1] == pytest.approx(standard[0], abs=1e-3)
    if first.objectives is not None:
        gated = [s.score(prompts, answers, prompt_gate=True) for s in (first, second)]
        assert gated[1] == pytest.approx(gated[0] / temperature, abs=tolerance)
        for explained, score in zip(second.explain(prompts, answers), gated[1], strict=True):
            assert explained.score == pytest.approx(score, abs=1e-5)
        saved = load_objectives(folded)
        states, _ = second.states([second.conversation(*a) for a in ASKED])
        assert in_logits == pytest.approx(saved.score(states), abs=1e-5)
    return temperature, in_logits


def test_a_folded_preference_model_is_exact_for_any_server(backbone, tmp_path):
    plain, folded = runs(backbone, tmp_path, preference=TRAINING)
    temperature, in_logits = check_fold(plain, folded, 1e-6)
    # The head is the head by the temperature, to the last bit of float32, and nothing else moved.
    heads = [load_reward_model(f).model.state_dict() for f in (plain, folded)]
    ratio = (heads[0]["score.weight"].double() / heads[1]["score.weight"].double()).numpy()
    assert ratio == pytest.approx(temperature, rel=1e-6)
    assert all((heads[0][n] == heads[1][n]).all() for n in heads[0] if n != "score.weight")
    # What a stock loader makes of it, without anything of ours.
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folded),
        AutoTokenizer.from_pretrained(folded),
    )
    for (prompt, answer), expected in zip(ASKED, in_logits, strict=True):
        talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(talk, tokenize=False)
        batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        assert float(model(**batch).logits[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_folded_objectives_are_exact_with_either_gate(backbone, tmp_path):
    check_fold(*runs(backbone, tmp_path, objectives=OBJECTIVES), 1e-5)


def test_folded_objectives_of_an_encoder_are_exact(encoder, tmp_path):
    check_fold(*runs(encoder, tmp_path, objectives=OBJECTIVES), 1e-5)


def test_the_fits_are_what_they_say():
    """At the fitted temperature the slope of a logistic regression is 1; the line is the least squares'."""
    rng = np.random.default_rng(0)
    gaps = np.abs(rng.normal(size=4000)) * 3
    right = rng.random(4000) < 1 / (1 + np.exp(-gaps / 3))
    signed = np.where(right, gaps, -gaps)
    temperature = fit_temperature(signed)
    assert temperature == pytest.approx(3, rel=0.15)
    z = signed / temperature
    # The derivative of the mean log loss with respect to the slope vanishes.
    assert float(np.mean(-z / (1 + np.exp(z)))) == pytest.approx(0, abs=1e-3)
    x = rng.normal(size=50)
    slope, offset = fit_affine(x, 2 * x - 1)
    assert (slope, offset) == (pytest.approx(2), pytest.approx(-1))
