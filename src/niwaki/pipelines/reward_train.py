"""Stages 2 to 4 of a reward run: regression, preference, extrapolation (arXiv 2410.01257)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.errors import DataError
from niwaki.ground import processes
from niwaki.ground.chat import Conversation
from niwaki.ground.loop import Loss, RowSource
from niwaki.ground.run import write_atomically
from niwaki.pipelines.inputs import device
from niwaki.pipelines.reward_inputs import PREFER, REGRESS, RewardInputs
from niwaki.recipe.reward import Preference, Regression, Training
from niwaki.reward.data import objectives_of
from niwaki.reward.export import save_reward_model
from niwaki.reward.extrapolate import sweep
from niwaki.reward.model import Scorable, load_backbone, score_conversations
from niwaki.reward.tokens import PairRows, PairTokens, RatingRows
from niwaki.reward.train import merged, preference_loss, rating_loss, train, with_lora

_EVALUATIONS = 8


def regress(inputs: RewardInputs, folder: Path) -> None:
    """Stage 2: one head a rating, on the whole model."""
    section = inputs.recipe.regression
    assert section is not None
    names = objectives_of(inputs.ratings("train"), section.objectives)
    scorable = load_backbone(inputs.backbone, labels=names, template=inputs.template, device=device())
    tokens = inputs.rating_tokens(scorable.chat, "train", names)
    held = inputs.rating_tokens(scorable.chat, "validation", names)
    rows = RatingRows(tokens, pad_id=scorable.pad_id, batch_rows=section.batch_rows, seed=inputs.recipe.seed)
    held_rows = RatingRows(held, pad_id=scorable.pad_id, batch_rows=section.micro_rows, seed=None)
    trained = _train(inputs, section, scorable, rows, rating_loss, folder, len(tokens), held_rows, len(held))
    card = {"loss": "regression", "objectives": list(names), "data": inputs.data["counts"]}
    _save(trained, folder / "model", card)


def prefer(inputs: RewardInputs, folder: Path) -> None:
    """Stage 3: Bradley-Terry, from the regression with the row of its first objective as the head."""
    section = inputs.recipe.preference
    assert section is not None
    start = inputs.backbone if inputs.recipe.regression is None else inputs.out / REGRESS / "model"
    scorable = load_backbone(start, template=inputs.template, device=device())
    tokens = inputs.pair_tokens(scorable.chat, "train")
    held = inputs.pair_tokens(scorable.chat, "validation")
    if section.normalise_weights:
        tokens = tokens.with_mean_strength_one()
    seed = inputs.recipe.seed if section.shuffle else None
    rows = PairRows(tokens, pad_id=scorable.pad_id, batch_rows=section.batch_rows, seed=seed)
    held_rows = PairRows(held, pad_id=scorable.pad_id, batch_rows=section.micro_rows, seed=None)
    loss = preference_loss(section.loss)
    trained = _train(inputs, section, scorable, rows, loss, folder, len(tokens), held_rows, len(held))
    card = {"loss": f"{section.loss} Bradley-Terry", "from": str(start.name), "data": inputs.data["counts"]}
    _save(trained, folder / "model", card)


def extrapolate(inputs: RewardInputs, folder: Path) -> None:
    """Stage 4: the step past the preference model that orders most validation pairs."""
    section = inputs.recipe.expo
    assert section is not None
    start = load_backbone(inputs.out / REGRESS / "model", device=device())
    scorable = load_backbone(inputs.out / PREFER / "model", device=device())
    held = inputs.pair_tokens(scorable.chat, "validation")

    def measure(_: Any) -> tuple[float, float]:
        gaps = gaps_of(scorable, held, inputs.recipe.evaluate.batch_rows)
        return float((gaps > 0).mean()), float(np.logaddexp(0, -gaps).mean())

    found = sweep(scorable.model, start.model.state_dict(), measure, grid=section.grid)
    processes.by_main(lambda: write_atomically(folder / "expo.json", json.dumps(found, indent=1)))
    _save(scorable, folder / "model", {"loss": "ExPO", **found})


def gaps_of(scorable: Scorable, tokens: PairTokens, batch_rows: int) -> np.ndarray:
    """Score of the chosen answer minus that of the rejected one, [m]. Collective."""

    def score(mine: Sequence[Conversation]) -> np.ndarray:
        return score_conversations(scorable, mine, batch_rows=batch_rows)[:, 0]

    scores = np.array(processes.deal_out([*tokens.chosen, *tokens.rejected], score)).reshape(2, -1)
    gaps: np.ndarray = scores[0] - scores[1]
    return gaps


def num_steps(section: Training, num_rows: int) -> int:
    """Whole steps in the epochs; the paper's 6,766 pairs in batches of 64 are 105.

    Raises:
        DataError: fewer rows than one batch.
    """
    steps = int(section.epochs * num_rows / section.batch_rows)
    if not steps:
        raise DataError(
            f"{num_rows} rows in {section.epochs:g} epochs do not fill one batch of {section.batch_rows}.",
            "Lower `batch_rows`, or give more data.",
        )
    return steps


@processes.main_only
def _save(trained: Scorable, out: Path, card: dict[str, Any]) -> None:
    save_reward_model(trained, out, card=card, replace=True)


def _train(
    inputs: RewardInputs,
    section: Regression | Preference,
    scorable: Scorable,
    rows: RowSource,
    loss: Loss,
    folder: Path,
    num_rows: int,
    held: RowSource,
    num_held: int,
) -> Scorable:
    steps = num_steps(section, num_rows)
    model: Any = scorable.model
    if inputs.recipe.lora is not None:
        lora = inputs.recipe.lora
        model = with_lora(model, rank=lora.rank, alpha=lora.alpha, seed=inputs.recipe.seed)
    train(
        model,
        rows,
        loss,
        out=folder,
        num_steps=steps,
        batch_rows=section.batch_rows,
        micro_rows=section.micro_rows,
        learning_rate=section.learning_rate,
        head_rate_factor=section.head_rate_factor,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        precision=section.precision,
        checkpointing=section.checkpointing,
        seed=inputs.recipe.seed,
        save_every_steps=max(1, min(500, steps // 4)),
        held_out=held,
        held_out_rows=num_held,
        evaluate_every_steps=max(1, steps // _EVALUATIONS),
        label=folder.name.partition("-")[2],
    )
    return Scorable(merged(model), scorable.chat)
