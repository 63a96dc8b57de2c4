"""Real preferences and ratings on states of frozen `sapling`: what they are worth against length and a coin.

    python experiments/reward/real.py DATA        # DATA holds pref_pandalm, pref_qa_feedback, ...

Sets (see the experiments' page for their origin): PandaLM's test set (three people a pair), QA-Feedback (six
labels a question), a sample of UltraFeedback (GPT-4), and the ratings of Topical-Chat and HANNA. `sapling`
has read nothing but Python; nobody should expect much of its states here, and that is the point of the
baselines. Every prediction is by a head that never saw the prompt (ten folds); intervals resample prompts.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lab import MAX_TOKENS
from sklearn.linear_model import LogisticRegression

from niwaki.evaluation.preference import compare_pairs, pair_accuracy
from niwaki.ground.corpus import default_cache
from niwaki.reward import ridge
from niwaki.reward.debias import spearman
from niwaki.reward.features import Features, cache_pairs, cache_ratings, load_extractor
from niwaki.reward.forms import Skipped, overall_strength, read_pair
from niwaki.reward.records import Pair, Rating, read_rows
from niwaki.reward.tokens import encode_pairs, encode_ratings

RESULT = Path(__file__).parent / "results" / "real.json"
FOLDER = default_cache() / "experiments-reward-real"
FOLDS = 10
LIMITS = {"pandalm": 350, "qa_feedback": 70, "ultrafeedback": 100, "hanna": 100, "topicalchat": 60}
LONGEST = 400
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def pandalm(folder: Path) -> list[Pair | Skipped]:
    found: list[Pair | Skipped] = []
    for name, row in read_rows(str(folder / "testset-v1.json")):
        people = [{0: 0.0, 1: -1.0, 2: 1.0}[int(row[f"annotator{i}"])] for i in (1, 2, 3)]
        strength = overall_strength(people)
        if isinstance(strength, str):
            found.append(Skipped(name, strength))
            continue
        asked = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
        new = {
            "prompt": asked, "response_1": str(row["response1"]), "response_2": str(row["response2"]),
            "preference_strength": strength, "three_most_similar_preferences": [],
        }  # fmt: skip
        if not new["response_1"].strip() or not new["response_2"].strip():
            found.append(Skipped(name, "an answer is empty"))
            continue
        found.append(read_pair(new, name, "helpsteer2-preference", source="pandalm"))
    return found


def qa_feedback(folder: Path) -> list[Pair | Skipped]:
    found: list[Pair | Skipped] = []
    for name, row in read_rows(str(folder / "dev_feedback.json")):
        outputs = [row[f"prediction {i}"] for i in (1, 2, 3, 4)]
        places = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        for (i, j), label in zip(places, row["preference"], strict=True):
            new = {
                "prompt": row["question"], "response_1": outputs[i], "response_2": outputs[j],
                "preference_strength": {1: -1, 2: 1}.get(label, 0), "three_most_similar_preferences": [],
            }  # fmt: skip
            found.append(read_pair(new, f"{name} {i}-{j}", "helpsteer2-preference", source="qa_feedback"))
    return found


def ultrafeedback(folder: Path) -> list[Pair | Skipped]:
    rows = [*read_rows(str(folder / "train_1000.jsonl")), *read_rows(str(folder / "eval_200.jsonl"))]
    keep = ("prompt", "chosen", "rejected")
    return [read_pair({k: row[k] for k in keep}, name, "pairs", source="ultrafeedback") for name, row in rows]


def topicalchat(folder: Path) -> list[Rating]:
    return [
        Rating(name, user(row["source"]), row["system_output"].strip(), dict(row["scores"]))
        for name, row in read_rows(str(folder / "topical_chat.json"))
    ]


def hanna(folder: Path) -> list[Rating]:
    rows = [*read_rows(str(folder / "hanna_valid.json")), *read_rows(str(folder / "hanna_test.json"))]
    return [
        Rating(name, user(row["prompt"]), row["story"].strip(), dict(row["scores"])) for name, row in rows
    ]


def judge_pairs_of(name: str, pairs: list[Pair | Skipped], extractor: Any) -> dict[str, Any]:
    """Out-of-fold accuracy of a linear Bradley-Terry head; the penalty is chosen inside the other folds."""
    skipped = [p for p in pairs if isinstance(p, Skipped)]
    usable = [p for p in pairs if isinstance(p, Pair)]
    short = [
        p for p in usable if len(p.prompt[0]["content"]) + max(len(p.chosen), len(p.rejected)) < 3 * LONGEST
    ]
    tokens, long = encode_pairs(extractor.chat, short, max_tokens=MAX_TOKENS)
    keys = sorted({p.key for p in tokens.pairs})
    wanted = set(keys[: LIMITS[name]])
    rows = [i for i, p in enumerate(tokens.pairs) if p.key in wanted]
    tokens = type(tokens)(
        *(tuple(column[i] for i in rows) for column in (tokens.pairs, tokens.chosen, tokens.rejected))
    )
    features = cache_pairs(extractor, tokens, FOLDER / name, shard_rows=256)
    states, lengths = features.read("states").astype(np.float64), tokens.lengths()
    groups = features.meta["groups"]
    x = states[:, 0] - states[:, 1]
    gaps = out_of_fold(x / np.sqrt((x**2).sum(1).mean()), groups)
    logs = np.log(np.maximum(lengths, 1))
    longer = out_of_fold(np.diff(logs[:, ::-1], axis=1), groups)
    coin = np.random.default_rng(0).normal(size=len(x))
    found = {
        "num_pairs": len(x),
        "num_prompts": len(set(groups)),
        "not_used": {
            "ties, disagreement, equal or empty": len(skipped),
            "longer": len(usable) - len(short) + len(long),
        },
        "mean_tokens": float(np.mean([len(c.ids) for c in (*tokens.chosen, *tokens.rejected)])),
        "with_length": spearman(gaps, logs[:, 0] - logs[:, 1]),
    }
    for label, values in (("states", gaps), ("length, learned sign", longer), ("coin", coin)):
        found[label] = asdict(pair_accuracy(values, groups))
    found["states minus length"] = asdict(compare_pairs(gaps, longer, groups))
    return found


def out_of_fold(x: np.ndarray, groups: list[str]) -> np.ndarray:
    """Logistic regression on differences without intercept, each fold predicted by the others."""
    fold = ridge.bucket_of(groups, FOLDS)
    found = np.empty(len(x))
    for f in range(FOLDS):
        inside = fold != f
        inner = fold[inside] % 3 == 0
        best = max(PENALTIES, key=lambda c: _accuracy(_fit(x[inside][~inner], c), x[inside][inner]))
        found[~inside] = x[~inside] @ _fit(x[inside], best)
    return found


def _fit(x: np.ndarray, c: float) -> np.ndarray:
    both = np.concatenate([x, -x])
    labels = np.repeat([1, 0], len(x))
    head: np.ndarray = LogisticRegression(C=c, fit_intercept=False, max_iter=500).fit(both, labels).coef_[0]
    return head


def _accuracy(head: np.ndarray, x: np.ndarray) -> float:
    return float((x @ head > 0).mean())


def judge_ratings_of(name: str, ratings: list[Rating], extractor: Any) -> dict[str, Any]:
    """Cross-validated rank correlation and R2 of ridge heads, beside a head on the length alone."""
    ratings = [r for r in ratings if len(r.prompt[0]["content"]) + len(r.answer) < 3 * LONGEST and r.answer]
    wanted = set(sorted({r.key for r in ratings})[: LIMITS[name]])
    ratings = [r for r in ratings if r.key in wanted]
    objectives = tuple(ratings[0].ratings)
    tokens, _ = encode_ratings(extractor.chat, ratings, objectives, max_tokens=MAX_TOKENS)
    features: Features = cache_ratings(extractor, tokens, FOLDER / name, shard_rows=256)
    states, groups = features.read("states").astype(np.float64), features.meta["groups"]
    labels = tokens.labels - tokens.labels.mean(0)
    unit = np.sqrt((states**2).sum(1).mean())
    logs = np.log(np.maximum(tokens.lengths(), 1))
    found: dict[str, Any] = {"num_answers": len(states), "num_prompts": len(set(groups)), "objectives": {}}
    for label, x in (
        ("states", states / unit),
        ("length", np.stack([logs - logs.mean(), np.ones(len(logs))], 1)),
    ):
        normal = ridge.gather([(x, labels)], groups, objectives)
        fitted = ridge.fit(normal)
        predicted = ridge.out_of_fold(normal, fitted, [x], groups)
        for k, objective in enumerate(objectives):
            entry = found["objectives"].setdefault(objective, {})
            entry[label] = {"r2": float(fitted.r2[k]), "spearman": spearman(predicted[:, k], labels[:, k])}
    return found


def main() -> None:
    began = time.process_time()
    data = Path(sys.argv[1])
    extractor = load_extractor("sapling", pooling="mean")
    found: dict[str, Any] = {"pairs": {}, "ratings": {}}
    readers = {"pandalm": pandalm, "qa_feedback": qa_feedback, "ultrafeedback": ultrafeedback}
    folders = {"ultrafeedback": "pref_ultrafeedback1200"}
    for name, read in readers.items():
        folder = data / folders.get(name, f"pref_{name}")
        if folder.is_dir():
            found["pairs"][name] = judge_pairs_of(name, read(folder), extractor)
            print(name, json.dumps(found["pairs"][name]), flush=True)
    for name, reader in (("topicalchat", topicalchat), ("hanna", hanna)):
        if (data / f"attr_{name}").is_dir():
            found["ratings"][name] = judge_ratings_of(name, reader(data / f"attr_{name}"), extractor)
            print(name, json.dumps(found["ratings"][name]), flush=True)
    RESULT.write_text(json.dumps(found | {"cpu_s": round(time.process_time() - began)}, indent=1))


if __name__ == "__main__":
    main()
