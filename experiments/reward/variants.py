"""The training variants of arXiv 2410.01257 on the offline bench: which order comes out.

    python experiments/reward/variants.py         # twenty seeds, results/variants.json; needs lab.py first
    python experiments/reward/variants.py last    # the state of the last token instead of the mean

Heads are trained on frozen states of `sapling` by the library's own losses, loop and extrapolation: a model
of no layers on top of a table of states. Every variant sees the same pairs once; regressions see the same
answers with their ratings. Test pairs are on functions that were not trained on, and are judged by the true
worth.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lab
import numpy as np
import torch
from torch import Tensor, nn

from niwaki.ground.loop import Loss, RowSource
from niwaki.reward.extrapolate import sweep
from niwaki.reward.features import Pooling
from niwaki.reward.train import preference_loss, rating_loss, train
from niwaki.sapling.answers import ATTRIBUTES

RESULTS = Path(__file__).parent / "results"
SEEDS = range(20)
NUM_COUPLES, NUM_VALIDATION = 500, 125
BATCH_PAIRS = 16
FORMS = ("regular", "margin", "scaled")
FIVE = ("helpfulness", *ATTRIBUTES)
LOSSES = ("regression", *FORMS)
TUNING_SEEDS = range(1000, 1006)
GRID = (0.0, 0.5, 0.75, 1.0, 1.25, 1.52, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)
REGRESSION_EPOCHS = 2  # as in the paper; preferences are seen once


class Probe(nn.Module):
    """What `niwaki.reward.train` trains, with a table of states for a backbone: ids [B, 1] are rows of it."""

    base_model_prefix = "model"

    def __init__(self, table: Tensor, num_labels: int) -> None:
        super().__init__()
        self.model = _Table(table)
        self.score = nn.Linear(table.shape[1], num_labels, bias=False)
        nn.init.zeros_(self.score.weight)


class _Table(nn.Module):
    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.register_buffer("states", states, persistent=False)

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        return type("Out", (), {"last_hidden_state": self.states[input_ids]})


class Rows:
    """Pairs, or rated answers, as ids of the table."""

    def __init__(self, columns: dict[str, np.ndarray], seed: int) -> None:
        self.columns, self.seed = columns, seed
        self.num = len(next(iter(columns.values())))

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        places = [self._place(i) for i in range(start, start + count)]
        batch = {name: torch.from_numpy(column[places]) for name, column in self.columns.items()}
        ids = batch.pop("rows").reshape(-1, 1)
        return batch | {"ids": ids, "last": torch.zeros(len(ids), dtype=torch.long)}

    def _place(self, index: int) -> int:
        epoch, place = divmod(index, self.num)
        return int(np.random.default_rng((self.seed, epoch)).permutation(self.num)[place])


class Trial:
    """One seed at one learning rate."""

    def __init__(self, train_set: lab.Sample, held: lab.Sample, seed: int, rates: dict[str, float]) -> None:
        self.data, self.held, self.seed, self.rates = train_set, held, seed, rates
        m, d = len(train_set.states), train_set.states.shape[-1]
        states = np.concatenate([train_set.states.reshape(-1, d), train_set.rated])
        # States in units of their own spread, so that one learning rate fits any backbone.
        self.unit = float(np.sqrt((train_set.rated**2).sum(1).mean()))
        self.table = torch.from_numpy(states / self.unit).float()
        self.pairs = Rows(
            {
                "rows": np.arange(2 * m).reshape(m, 2),
                "strength": train_set.strength.astype(np.float32),
                "q": np.ones(m, dtype=np.float32),
                "mask": np.ones(m, dtype=bool),
            },
            seed,
        )
        self.first_rated = 2 * m

    def fit(self, model: Probe, rows: RowSource, loss: Loss, batch: int, num: int, rate: float) -> Probe:
        model = copy.deepcopy(model)
        with tempfile.TemporaryDirectory() as folder:
            train(
                model, rows, loss, out=Path(folder), num_steps=num // batch, batch_rows=batch,
                micro_rows=batch, learning_rate=rate, warmup_steps=5, weight_decay=0.0, seed=self.seed,
                save_every_steps=10**6, label="probe",
            )  # fmt: skip
        return model

    def prefer(self, start: Probe, form: Any) -> Probe:
        return self.fit(
            start, self.pairs, preference_loss(form), BATCH_PAIRS, self.pairs.num, self.rates[form]
        )

    def regress(self, names: Sequence[str]) -> Probe:
        labels = np.stack([self.data.labels[name] for name in names], axis=1).astype(np.float32)
        n = len(labels)
        columns = {
            "rows": self.first_rated + np.arange(n),
            "labels": labels,
            "mask": np.ones_like(labels, dtype=bool),
        }
        start, rows = Probe(self.table, len(names)), Rows(columns, self.seed)
        num = REGRESSION_EPOCHS * n
        return self.fit(start, rows, rating_loss, 2 * BATCH_PAIRS, num, self.rates["regression"])

    @torch.no_grad()
    def gaps(self, model: Probe, sample: lab.Sample) -> np.ndarray:
        head = model.score.weight[0].double().numpy()
        scores = (sample.states / self.unit) @ head
        gaps: np.ndarray = scores[:, 0] - scores[:, 1]
        return gaps


def variants(trial: Trial, test: lab.Sample) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every variant's differences of scores on test pairs, and the curve of the extrapolation."""
    scratch = Probe(trial.table, 1)
    regression, five = trial.regress(("helpfulness",)), trial.regress(FIVE)
    found = {"regression, helpfulness": regression, "regression, five attributes": five}
    for form in FORMS:
        found[f"{form} BT"] = trial.prefer(scratch, form)
        found[f"regression -> {form} BT"] = trial.prefer(regression, form)
    gaps = {name: trial.gaps(model, test) for name, model in found.items()}
    moved, on_test = copy.deepcopy(found["regression -> scaled BT"]), []

    def measure(model: nn.Module) -> tuple[float, float]:
        held = trial.gaps(moved, trial.held)
        on_test.append(float((trial.gaps(moved, test) > 0).mean()))
        return float((held > 0).mean()), float(np.logaddexp(0, -held).mean())

    expo = sweep(moved, regression.state_dict(), measure, grid=GRID)
    gaps["regression -> scaled BT + ExPO"] = trial.gaps(moved, test)
    return gaps, expo | {"test_accuracy": on_test}


def choose_rates(pooled: lab.Pool) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """For each loss the rate with the best mean validation accuracy, on seeds of its own; and all tried."""
    tried: dict[str, dict[str, float]] = {name: dict.fromkeys(map(str, RATES), 0.0) for name in LOSSES}
    for seed in TUNING_SEEDS:
        train_set, held = samples(pooled, seed)
        for rate in RATES:
            trial = Trial(train_set, held, seed, dict.fromkeys(LOSSES, rate))
            for name in LOSSES:
                scratch = Probe(trial.table, 1)
                model = (
                    trial.regress(("helpfulness",)) if name == "regression" else trial.prefer(scratch, name)
                )
                right = float((trial.gaps(model, held) > 0).mean())
                tried[name][str(rate)] += right / len(TUNING_SEEDS)
    return {name: float(max(found, key=lambda rate: found[rate])) for name, found in tried.items()}, tried


def samples(pooled: lab.Pool, seed: int) -> tuple[lab.Sample, lab.Sample]:
    """Training and validation sets of a seed, on different prompts."""
    both = lab.sample(pooled, seed=seed, num_couples=NUM_COUPLES + NUM_VALIDATION)
    held_groups = set(sorted(set(both.group))[:: NUM_COUPLES // NUM_VALIDATION + 1])
    inside = np.array([g not in held_groups for g in both.group])
    rated = np.array([g not in held_groups for g in both.rated_groups])
    return lab.part(both, inside, rated), lab.part(both, ~inside, ~rated)


def main(pooling: Pooling) -> None:
    began = time.process_time()
    train_pool, test_pool = lab.pool("train", pooling), lab.pool("test", pooling)
    test = lab.sample(test_pool, seed=0, bias=0.0, noise=0.0)
    rates, tried = choose_rates(train_pool)
    print(tried, flush=True)
    seeds = []
    for seed in SEEDS:
        train_set, held = samples(train_pool, seed)
        gaps, expo = variants(Trial(train_set, held, seed, rates), test)
        gaps["longer answer"] = (test.lengths[:, 0] - test.lengths[:, 1]).astype(float)
        far = np.argsort(test.worth[:, 0] - test.worth[:, 1])
        seeds.append(
            {
                "seed": seed,
                "num_pairs": len(train_set.states),
                "labels_true": float((train_set.worth[:, 0] > train_set.worth[:, 1]).mean()),
                "accuracy": {name: float((g > 0).mean()) for name, g in gaps.items()},
                "by_worth": {
                    n: [float((g[b] > 0).mean()) for b in np.array_split(far, 3)] for n, g in gaps.items()
                },
                "expo": expo,
            }
        )
        print(seed, {name: round(value, 3) for name, value in seeds[-1]["accuracy"].items()}, flush=True)
    RESULTS.mkdir(exist_ok=True)
    result = RESULTS / ("variants.json" if pooling == "mean" else f"variants-{pooling}.json")
    found = {"rates": rates, "tried": tried, "num_test": len(test.states), "seeds": seeds}
    result.write_text(json.dumps(found | {"cpu_s": round(time.process_time() - began)}, indent=1))


if __name__ == "__main__":
    main("last" if sys.argv[1:] == ["last"] else "mean")
