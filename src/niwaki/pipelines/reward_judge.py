"""Stages 7 and 8 of a reward run: calibration on validation pairs, and the judgement on test pairs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from niwaki.errors import NiwakiError
from niwaki.evaluation.preference import compare_pairs, judge_pairs
from niwaki.evaluation.rewardbench import rewardbench, rewardbench2
from niwaki.ground import processes
from niwaki.ground.chat import Conversation
from niwaki.ground.run import write_atomically
from niwaki.pipelines.inputs import device
from niwaki.pipelines.reward_inputs import (
    BENCHMARK_SPLITS,
    CALIBRATE,
    EXTRAPOLATE,
    OBJECTIVES,
    PREFER,
    REGRESS,
    RewardInputs,
)
from niwaki.reward.calibrate import fit_affine, fit_temperature, reliability, serving
from niwaki.reward.objectives import CARD
from niwaki.reward.records import read_rows
from niwaki.reward.scorer import Scorer, load_scorer, save_scorer
from niwaki.reward.tokens import PairTokens

PROMPT_GATE = "objectives, prompt gate"
_NUM_ERRORS = 8


def calibrate(inputs: RewardInputs, folder: Path) -> None:
    """Stage 7: temperature, offset and units on validation pairs; the model with them in `reward.json`."""
    scorer = load_scorer(inputs.product, device=device())
    tokens = inputs.pair_tokens(scorer.chat, "validation")
    rows = inputs.recipe.evaluate.batch_rows
    scores = _pair_scores(scorer, tokens, rows)
    gaps = scores[:, 0] - scores[:, 1]
    found: dict[str, Any] = {"num_pairs": len(gaps), "temperature": None, **serving(scores.ravel())}
    try:
        found["temperature"] = fit_temperature(gaps)
    except NiwakiError as error:
        found["warning"] = f"{error.message} {error.remedy}"
    if rated := inputs.ratings("validation"):
        first = next(iter(rated[0].ratings), None)
        if first is not None:
            labels = inputs.rating_tokens(scorer.chat, "validation", (first,))
            on_rated = _scores(scorer, labels.conversations, rows)
            slope, offset = fit_affine(on_rated, labels.labels[:, 0])
            found["affine"] = {"to": first, "slope": slope, "offset": offset}
    _save_calibrated(inputs, scorer, found, folder)


@processes.main_only
def _save_calibrated(inputs: RewardInputs, scorer: Scorer, found: dict[str, Any], folder: Path) -> None:
    fold = inputs.recipe.export.fold_temperature and found["temperature"] is not None
    if fold:
        scorer = scorer.rescaled(1 / found["temperature"])
        for name in ("logit_mean", "logit_sigma"):
            found[name] /= found["temperature"]
        if "affine" in found:
            found["affine"]["slope"] *= found["temperature"]
        found |= {"folded_temperature": found["temperature"], "temperature": 1.0}
    card = json.loads((inputs.product / CARD).read_text()) | {"calibration": found}
    out = folder / "model"
    if fold or inputs.recipe.export.dtype != "float32":
        save_scorer(scorer, out, card=card, dtype=getattr(torch, inputs.recipe.export.dtype))
    else:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(inputs.product, out, copy_function=_link)
        (out / CARD).unlink()
        write_atomically(out / CARD, json.dumps(card, indent=1))
    write_atomically(folder / "calibration.json", json.dumps(found, indent=1))


def judge(inputs: RewardInputs, folder: Path) -> None:
    """Stage 8: every model of the run on test pairs, beside the longer answer and a coin; then benchmarks."""
    rows = inputs.recipe.evaluate.batch_rows
    results: dict[str, Any] = {"sets": {}}
    for side in ("test", "more"):
        if inputs.pairs(side):
            results["sets"][side] = _judge_set(inputs, side, rows)
    results["warnings"] = _warnings(results["sets"]["test"])
    scorer = load_scorer(inputs.out / CALIBRATE / "model", device=device())
    for name, run in (("rewardbench", rewardbench), ("rewardbench2", rewardbench2)):
        source = getattr(inputs.recipe.evaluate, name)
        if source is not None:

            def score(prompts: Sequence[Any], answers: Sequence[str]) -> np.ndarray:
                both = zip(prompts, answers, strict=True)
                return _scores(scorer, [scorer.conversation(*each) for each in both], rows)

            results[name] = run(read_rows(source, split=BENCHMARK_SPLITS[name]), score)
    processes.by_main(lambda: write_atomically(folder / "results.json", json.dumps(results, indent=1)))


def _judge_set(inputs: RewardInputs, side: str, batch_rows: int) -> dict[str, Any]:
    tokens = inputs.pair_tokens(inputs.chat, side)
    groups, lengths = [pair.key for pair in tokens.pairs], tokens.lengths()
    gaps = _all_gaps(inputs, side, batch_rows)
    gaps["longer answer"] = (lengths[:, 0] - lengths[:, 1]).astype(float)
    gaps["coin"] = np.random.default_rng(inputs.recipe.seed).normal(size=len(tokens))
    final = _final(gaps)
    found: dict[str, Any] = {
        "final": final,
        "models": {
            name: judge_pairs(
                g,
                subsets=tokens.sources(),
                lengths=lengths,
                groups=groups,
                strengths=[pair.strength for pair in tokens.pairs],
            )
            for name, g in gaps.items()
        },
        "against_final": {
            name: asdict(compare_pairs(gaps[final], g, groups)) for name, g in gaps.items() if name != final
        },
        "errors": _worst(tokens, gaps[final]),
    }
    temperature = json.loads((inputs.out / CALIBRATE / "calibration.json").read_text())["temperature"]
    if temperature is not None:
        found["reliability"] = _reliabilities(tokens, gaps[final], temperature)
    return found


def _all_gaps(inputs: RewardInputs, side: str, batch_rows: int) -> dict[str, np.ndarray]:
    recipe = inputs.recipe
    folders = {
        "regression": (recipe.regression, REGRESS),
        "preference": (recipe.preference, PREFER),
        "ExPO": (recipe.expo, EXTRAPOLATE),
        "objectives": (recipe.objectives, OBJECTIVES),
    }
    gaps = {}
    for name, (section, stage) in folders.items():
        if section is None:
            continue
        scorer = load_scorer(inputs.out / stage / "model", device=device())
        scores = _pair_scores(scorer, inputs.pair_tokens(scorer.chat, side), batch_rows)
        gaps[name] = scores[:, 0] - scores[:, 1]
    if recipe.objectives is not None and recipe.objectives.gate.kind == "prompt":
        scorer = load_scorer(inputs.out / OBJECTIVES / "model", device=device())
        tokens = inputs.pair_tokens(scorer.chat, side)
        scores = _pair_scores(scorer, tokens, batch_rows, prompt_gate=True)
        gaps[PROMPT_GATE] = scores[:, 0] - scores[:, 1]
    return gaps


def _pair_scores(
    scorer: Scorer, tokens: PairTokens, batch_rows: int, *, prompt_gate: bool = False
) -> np.ndarray:
    both = [*tokens.chosen, *tokens.rejected]
    return _scores(scorer, both, batch_rows, prompt_gate=prompt_gate).reshape(2, -1).T


def _scores(
    scorer: Scorer, conversations: Sequence[Conversation], batch_rows: int, *, prompt_gate: bool = False
) -> np.ndarray:
    """Scores [n], each of several processes for part of them."""

    def score(mine: Sequence[Conversation]) -> np.ndarray:
        return scorer.score_rendered(mine, batch_rows=batch_rows, prompt_gate=prompt_gate)

    return np.array(processes.deal_out(conversations, score))


def _final(gaps: dict[str, np.ndarray]) -> str:
    """The model that is the run's product."""
    return [name for name in ("regression", "preference", "ExPO", "objectives") if name in gaps][-1]


def _reliabilities(tokens: PairTokens, gaps: np.ndarray, temperature: float) -> dict[str, Any]:
    """Of all pairs, and by source and length."""
    sources = np.array(tokens.sources())
    longest = tokens.lengths().max(axis=1)
    middle = np.median(longest)
    parts = {"all": np.ones(len(gaps), dtype=bool)}
    parts |= {f"source {s}": sources == s for s in sorted(set(sources.tolist()))}
    parts |= {f"up to {middle:.0f} tokens": longest <= middle, f"over {middle:.0f} tokens": longest > middle}
    return {name: asdict(reliability(gaps[rows], temperature)) for name, rows in parts.items() if rows.any()}


def _worst(tokens: PairTokens, gaps: np.ndarray) -> list[dict[str, Any]]:
    """The pairs that the model is most wrong about: they are worth reading."""
    order = [i for i in np.argsort(gaps) if gaps[i] < 0][:_NUM_ERRORS]
    return [
        {
            "row": tokens.pairs[i].row,
            "gap": float(gaps[i]),
            "strength": tokens.pairs[i].strength,
            "prompt": tokens.pairs[i].prompt[-1]["content"][:600],
            "chosen": tokens.pairs[i].chosen[:600],
            "rejected": tokens.pairs[i].rejected[:600],
        }
        for i in order
    ]


def _warnings(judged: dict[str, Any]) -> list[str]:
    accuracy = judged["models"][judged["final"]]["accuracy"]
    if accuracy["high"] < 0.5:
        return [
            f"The model orders {accuracy['mean']:.1%} of test pairs, clearly less than a coin: the columns "
            "chosen and rejected of a source look swapped."
        ]
    return []


def _link(source: str, target: str) -> None:
    """A hard link where the disk allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
