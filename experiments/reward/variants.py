"""The paper's training variants on the offline bench: which order comes out (arXiv 2410.01257, table of section 3).

    python experiments/reward/variants.py --seed 0        # writes results/variants-0.json; repeat for each seed

Every variant sees the same pairs once; regressions see the same answers, with their ratings. The upper two of
`sapling`'s eight layers and the head are trained. Test pairs are on functions that were not trained on, and are
judged by the true worth.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import bench
import numpy as np
import torch
from upper import Lower

from niwaki.ground.loop import Loss, RowSource
from niwaki.reward.extrapolate import GRID, sweep
from niwaki.reward.model import Scorable, load_backbone, score_conversations
from niwaki.reward.tokens import PairRows, PairTokens, RatingRows, encode_pairs, encode_ratings
from niwaki.reward.train import preference_loss, rating_loss, train

HERE = Path(__file__).parent
NUM_PAIRS, NUM_VALIDATION, NUM_TEST = 512, 200, 400
FROZEN_LAYERS = 6
BATCH_PAIRS = 16
FORMS = ("regular", "margin", "scaled")
FIVE = ("helpfulness", *bench.ATTRIBUTES)


class Lab:
    """One seed: its data, and trainings on it."""

    def __init__(self, seed: int, rate: float, factor: float) -> None:
        self.seed, self.rate, self.factor = seed, rate, factor
        self.scratch = load_backbone("sapling")
        chat = self.scratch.chat
        data = bench.make(NUM_PAIRS, split="train", seed=seed)
        validation = bench.make(NUM_VALIDATION, split="train", seed=1000 + seed)
        test = bench.make(NUM_TEST, split="test", seed=seed, confounded=False)
        encoded = [encode_pairs(chat, d.pairs, max_tokens=384)[0] for d in (data, validation, test)]
        rated = {
            names: encode_ratings(chat, data.ratings, names, max_tokens=384)[0]
            for names in (("helpfulness",), FIVE)
        }
        lower = Lower(self.scratch, FROZEN_LAYERS)
        lower.learn([c for tokens in encoded for c in (*tokens.chosen, *tokens.rejected)])
        lower.learn(list(rated[FIVE].conversations))
        self.lower = lower
        self.lengths = encoded[2].lengths()
        self.pairs, self.validation, self.test = (lower.named(tokens) for tokens in encoded)
        self.ratings = {names: lower.named(tokens) for names, tokens in rated.items()}
        self.scratch = self.upper(self.scratch)

    def upper(self, scorable: Scorable) -> Scorable:
        """What is trained of a model; padding is id 0 of the table."""
        return Scorable(self.lower.upper(scorable), scorable.chat)

    def fit(self, start: Scorable, rows: RowSource, loss: Loss, *, batch: int, num: int) -> Scorable:
        """A copy of `start`, trained for one pass."""
        model = copy.deepcopy(start.model)
        with tempfile.TemporaryDirectory() as folder:
            train(
                model,
                rows,
                loss,
                out=Path(folder),
                num_steps=num // batch,
                batch_rows=batch,
                micro_rows=batch,
                learning_rate=self.rate,
                head_rate_factor=self.factor,
                warmup_steps=2,
                seed=self.seed,
                save_every_steps=10**6,
            )
        return Scorable(model, start.chat)

    def bradley_terry(self, start: Scorable, form: str) -> Scorable:
        rows = PairRows(self.pairs, pad_id=0, batch_rows=BATCH_PAIRS, seed=self.seed)
        return self.fit(start, rows, preference_loss(form), batch=BATCH_PAIRS, num=len(self.pairs))

    def regression(self, names: tuple[str, ...]) -> Scorable:
        start = self.upper(load_backbone("sapling", labels=names))
        tokens = self.ratings[names]
        rows = RatingRows(tokens, pad_id=0, batch_rows=2 * BATCH_PAIRS, seed=self.seed)
        return self.fit(start, rows, rating_loss, batch=2 * BATCH_PAIRS, num=len(tokens))

    def correct(self, scorable: Scorable, pairs: PairTokens, label: str = "") -> np.ndarray:
        """Which pairs are in order, by the first label; ties count 0."""
        both = [c for pair in zip(pairs.chosen, pairs.rejected, strict=True) for c in pair]
        scores = score_conversations(scorable, both, label=label or "test")[:, 0].reshape(-1, 2)
        return scores[:, 0] - scores[:, 1]

    def expo(self, start: Scorable, trained: Scorable) -> tuple[dict[str, Any], Scorable]:
        """The best step past `trained` on validation pairs, and the whole curve on test pairs beside it."""
        model = copy.deepcopy(trained.model)
        moved = Scorable(model, trained.chat)
        on_test = []

        def measure(_: Any) -> tuple[float, float]:
            gaps = self.correct(moved, self.validation, "validation")
            on_test.append(float((self.correct(moved, self.test) > 0).mean()))
            return float((gaps > 0).mean()), float(np.logaddexp(0, -gaps).mean())

        found = sweep(model, start.model.state_dict(), measure, grid=GRID)
        return {**found, "test_accuracy": on_test}, moved


def run(seed: int, rate: float, factor: float) -> dict[str, Any]:
    lab = Lab(seed, rate, factor)
    gaps: dict[str, np.ndarray] = {}
    regression = lab.regression(("helpfulness",))
    gaps["regression, helpfulness"] = lab.correct(regression, lab.test)
    gaps["regression, five attributes"] = lab.correct(lab.regression(FIVE), lab.test)
    trained = {}
    for form in FORMS:
        gaps[f"{form} BT"] = lab.correct(lab.bradley_terry(lab.scratch, form), lab.test)
        trained[form] = lab.bradley_terry(regression, form)
        gaps[f"regression -> {form} BT"] = lab.correct(trained[form], lab.test)
    headless = copy.deepcopy(regression.model)
    torch.nn.init.zeros_(headless.score.weight)
    fresh = lab.bradley_terry(Scorable(headless, regression.chat), "scaled")
    gaps["regression -> scaled BT, new head"] = lab.correct(fresh, lab.test)
    expo, moved = lab.expo(regression, trained["scaled"])
    gaps["regression -> scaled BT + ExPO"] = lab.correct(moved, lab.test)
    gaps["longer answer"] = (lab.lengths[:, 0] - lab.lengths[:, 1]).astype(float)
    worths = np.array(bench.make(NUM_TEST, split="test", seed=seed, confounded=False).worth)
    return {
        "seed": seed,
        "learning_rate": rate,
        "head_rate_factor": factor,
        "num_pairs": len(lab.pairs),
        "num_test": len(lab.test),
        "correct": {name: "".join("01"[int(g > 0)] for g in values) for name, values in gaps.items()},
        "by_gap": {
            name: [float((g[band] > 0).mean()) for band in _bands(worths)] for name, g in gaps.items()
        },
        "expo": expo,
    }


def _bands(worths: np.ndarray) -> list[np.ndarray]:
    """Test pairs in thirds by how far their worths are apart."""
    order = np.argsort(worths[:, 0] - worths[:, 1])
    return np.array_split(order, 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--factor", type=float, default=10.0)
    arguments = parser.parse_args()
    out = HERE / "results" / f"variants-{arguments.seed}.json"
    if out.exists():
        print(f"{out.name} is there already")
        return
    torch.manual_seed(arguments.seed)
    began = time.process_time()
    found = run(arguments.seed, arguments.rate, arguments.factor)
    found["cpu_s"] = round(time.process_time() - began)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1))
    for name, flags in found["correct"].items():
        print(f"{name:36} {flags.count('1') / len(flags):.3f}")


if __name__ == "__main__":
    main()
