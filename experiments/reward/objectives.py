"""ArmoRM on the offline bench (arXiv 2406.12845): gates, fixed weights, a single head; with debiasing or not.

    python experiments/reward/objectives.py        # ten seeds, results/objectives.json; needs lab.py first

The raters like long answers and the truth does not care, so what debiasing is worth shows in true accuracy.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import lab
import numpy as np
import torch
from variants import samples

from niwaki.reward import ridge
from niwaki.reward.debias import debias, spearman
from niwaki.reward.gate import GateData, fixed_weights, train_gate
from niwaki.reward.objectives import scaled

RESULT = Path(__file__).parent / "results" / "objectives.json"
SEEDS = range(10)
WIDTH, STEPS, BATCH = 64, 200, 128
LENGTH = "length"


def heads(data: lab.Sample) -> tuple[tuple[str, ...], np.ndarray, ridge.Ridge]:
    """One head a rating and one for the logarithm of the length."""
    labels = dict(data.labels) | {LENGTH: np.log(data.rated_lengths)}
    names = tuple(labels)
    scales = [(0.0, 4.0) if n != LENGTH else (float(labels[n].min()), float(labels[n].max())) for n in names]
    y = scaled(np.stack([labels[n] for n in names], axis=1), scales)
    normal = ridge.gather([(data.rated, y)], data.rated_groups, names)
    fitted = ridge.fit(normal)
    return names, fitted.weight, fitted


def gate_data(sample: lab.Sample, weight: np.ndarray, transform: np.ndarray, spread: np.ndarray) -> GateData:
    rewards = (sample.states @ weight.T) @ transform / spread
    return GateData(sample.prompts, rewards, sample.strength, np.ones(len(rewards)))


def measure(scores: np.ndarray, test: lab.Sample) -> dict[str, float]:
    """True accuracy, where length helps and where it hurts, and the correlation of score and length."""
    right = scores[:, 0] > scores[:, 1]
    longer = test.lengths[:, 0] > test.lengths[:, 1]
    return {
        "accuracy": float(right.mean()),
        "better is longer": float(right[longer].mean()),
        "better is shorter": float(right[~longer].mean()),
        "with length": spearman(scores.ravel(), np.log(test.lengths).ravel()),
    }


def one(seed: int, pool: lab.Pool, test: lab.Sample) -> dict[str, Any]:
    data, held = samples(pool, seed)
    names, weight, fitted = heads(data)
    k, length = len(names), names.index(LENGTH)
    answers = data.states.reshape(-1, data.states.shape[-1])
    found = debias(answers @ weight.T, [length], objectives=names, observed=[np.log(data.lengths).ravel()])
    plain = np.eye(k)
    plain[length, length] = 0.0
    record: dict[str, Any] = {
        "seed": seed,
        "r2": dict(zip(names, fitted.r2.tolist(), strict=True)),
        "arms": {},
    }
    live = np.arange(k) != length
    for label, transform in (("biased", plain), ("debiased", found.transform)):
        spread = np.where(live, (answers @ weight.T @ transform).std(0), 1.0)
        sets = {
            n: gate_data(s, weight, transform, spread)
            for n, s in (("train", data), ("held", held), ("test", test))
        }
        with tempfile.TemporaryDirectory() as folder:
            gate, trained = train_gate(
                sets["train"], sets["held"], out=Path(folder), live=live, width=WIDTH, num_steps=STEPS,
                batch_rows=BATCH, temperature=1.0, seed=seed,
            )  # fmt: skip
        with torch.no_grad():
            prompts = torch.from_numpy(test.prompts).float()
            gates = gate(prompts).double().numpy()
            mixed = gate(
                prompts[torch.from_numpy(np.random.default_rng(seed).permutation(len(prompts)))]
            ).numpy()
        weights = {
            "prompt gate": gates,
            "prompt gate, prompts shuffled": mixed,
            "fixed weights": fixed_weights(sets["train"], live),
            "uniform weights": live / live.sum(),
            "helpfulness alone": np.eye(k)[names.index("helpfulness")],
        }
        for name, g in weights.items():
            scores = (sets["test"].rewards * (g[:, None] if g.ndim == 2 else g)).sum(-1)
            record["arms"][f"{name}, {label}"] = measure(scores, test)
        record[f"gate step, {label}"] = trained["step"]
        record[f"gates, {label}"] = {
            d: dict(zip(names, gates[test.domain == d].mean(0).tolist(), strict=True))
            for d in ("plain", "explained")
        }
    record["heads"] = {
        when: {
            n: [spearman(r[:, i], np.log(lengths).ravel()) for i in range(k) if i != length]
            for n, r, lengths in (
                ("reference", answers @ weight.T @ t, data.lengths),
                ("other", test.states.reshape(-1, test.states.shape[-1]) @ weight.T @ t, test.lengths),
            )
        }
        for when, t in (("before", plain), ("after", found.transform))
    }
    record["names"] = [n for n in names if n != LENGTH]
    record["arms"]["longer answer"] = measure(np.log(test.lengths), test)
    return record


def main() -> None:
    began = time.process_time()
    pool = lab.pool("train")
    test = lab.sample(lab.pool("test"), seed=0, bias=0.0, noise=0.0)
    seeds = []
    for seed in SEEDS:
        seeds.append(one(seed, pool, test))
        print(seed, {n: round(arm["accuracy"], 3) for n, arm in seeds[-1]["arms"].items()}, flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    content = {"num_test": len(test.states), "seeds": seeds, "cpu_s": round(time.process_time() - began)}
    RESULT.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
