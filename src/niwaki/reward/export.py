"""A reward model as a folder that stock loaders, trainers and serving engines read, checked when it is saved.

The contract: a stock sequence classifier, `score.weight` without a bias, `problem_type: regression` (engines
apply a sigmoid without it), names of the labels, padding apart from the end of text, the chat template,
safetensors. `reward.json` beside them says where the model comes from; loaders ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from niwaki.errors import CheckpointError
from niwaki.ground.folder import new_folder
from niwaki.ground.saved import no_progress_bars
from niwaki.reward.features import Extractor, load_extractor, states
from niwaki.reward.model import Scorable, head_of, load_reward_model, score_rows
from niwaki.reward.objectives import CARD, HEADS, Objectives, load_objectives
from niwaki.reward.tokens import padded

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_PROBES = (
    ("Name a tree.", "Pine."),
    ("Name a tree.", "A pine, of which there are many kinds; this one is shaped by hand, over years."),
    ("What is 2 + 2?", "4"),
)


@dataclass(frozen=True)
class RewardCheck:
    """Largest difference of a score from the one in memory, by the way it was read."""

    reloaded: float
    batched: float
    padded_right: float
    padded_left: float

    @property
    def largest(self) -> float:
        """The largest of all."""
        return max(self.reloaded, self.batched, self.padded_right, self.padded_left)


def save_reward_model(
    scorable: Scorable,
    out: Path,
    *,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    replace: bool = False,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> RewardCheck:
    """Save a sequence classifier with its tokenizer and check what was saved.

    Args:
        card: what `reward.json` holds.
        dtype: of the saved weights.
        beside: files of tensors to write along, by path in the folder ("objectives/heads.safetensors").
            Never at the top: engines load every safetensors file there.

    Raises:
        CheckpointError: the reloaded model scores differently in memory, batched, or padded on either side.
    """
    from safetensors.torch import save_file

    model = scorable.model
    meet_contract(scorable)
    needed = sum(p.numel() for p in model.parameters()) * dtype.itemsize * 2
    with new_folder(Path(out), needed_bytes=needed, replace=replace) as folder, no_progress_bars():
        _write(scorable, folder, card=card, dtype=dtype)
        for name, tensors in (beside or {}).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: t.contiguous() for k, t in tensors.items()}, path)
        return check_saved(folder, scorable, dtype=dtype)


def save_encoder(
    extractor: Extractor,
    objectives: Objectives,
    out: Path,
    *,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    replace: bool = False,
) -> float:
    """Save an encoder with the objectives on its mean states, and check it; returns the largest difference.

    No stock classifier reads a mean over the answer's tokens, so there is no `score` to save: the folder is
    the stock encoder with `objectives/heads.safetensors` beside it, and `load_scorer` scores with both.

    Raises:
        CheckpointError: the reloaded encoder scores differently.
    """
    from safetensors.torch import save_file

    model, chat = extractor.model, extractor.chat
    needed = sum(p.numel() for p in model.parameters()) * dtype.itemsize * 2
    conversations = [chat.conversation([{"role": "user", "content": q}], a, row="probe") for q, a in _PROBES]
    expected = objectives.score(states(extractor, conversations)[0].double().numpy())
    with new_folder(Path(out), needed_bytes=needed, replace=replace) as folder, no_progress_bars():
        told = {**card, "objectives": objectives.card(), "pooling": extractor.pooling}
        _write(extractor, folder, card=told, dtype=dtype)
        (folder / HEADS).parent.mkdir()
        save_file(objectives.tensors(), folder / HEADS)
        reloaded = load_extractor(folder, pooling=extractor.pooling)
        found = load_objectives(folder).score(states(reloaded, conversations)[0].double().numpy())
        difference = float(np.abs(found - expected).max())
        allowed = TOLERANCE[dtype] * max(1.0, float(np.abs(expected).max()))
        if not difference <= allowed:
            raise CheckpointError(
                f"{folder}: scores differ from those in memory by {difference:.2g}, expected at most "
                f"{allowed:.2g}.",
                "Save in float32.",
            )
    return difference


def _write(made: Scorable | Extractor, folder: Path, *, card: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Weights of this dtype, tokenizer and card; the model in memory stays as it is."""
    before = next(made.model.parameters()).dtype
    try:
        made.model.to(dtype).save_pretrained(folder)
    finally:
        made.model.to(before)
    made.chat.tokenizer.save_pretrained(folder)
    (folder / CARD).write_text(json.dumps(dict(card), indent=1), encoding="utf-8")


def meet_contract(scorable: Scorable) -> None:
    """Set what the contract asks of the config; refuse what it cannot hold."""
    model, tokenizer = scorable.model, scorable.chat.tokenizer
    head = head_of(model)
    if head.bias is not None:
        raise CheckpointError("The head has a bias, which engines leave out.", "Train a head without one.")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise CheckpointError(
            "The padding token is the end-of-text token, so engines would score another token.",
            "Load the model with `load_backbone`, which sets one apart.",
        )
    config = model.config
    config.problem_type = "regression"
    config.pad_token_id = tokenizer.pad_token_id
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    config.architectures = [type(model).__name__]
    if len(config.id2label) != head.out_features:
        raise CheckpointError(
            f"The head has {head.out_features} rows and the config names {len(config.id2label)} labels.",
            "Load the model with `labels` for every row.",
        )


@torch.no_grad()
def check_saved(folder: Path, scorable: Scorable, *, dtype: torch.dtype = torch.float32) -> RewardCheck:
    """Reload with stock classes and compare scores with the model in memory. Raises CheckpointError."""
    model = scorable.model.eval()
    conversations = [
        scorable.chat.conversation([{"role": "user", "content": q}], a, row="probe") for q, a in _PROBES
    ]
    ids, last = padded(conversations, scorable.pad_id)
    expected = score_rows(model, ids.to(model.device), last.to(model.device)).cpu()
    reloaded = load_reward_model(folder)
    if reloaded.model.config.problem_type != "regression":
        raise CheckpointError(f"{folder}: problem_type was lost in saving.", "Report it with this message.")
    stock = reloaded.model.to(dtype)

    def logits(rows: Tensor) -> Tensor:
        mask = (rows != scorable.pad_id).long()
        return stock(input_ids=rows, attention_mask=mask).logits.float()

    alone = torch.cat([logits(torch.tensor([c.ids])) for c in conversations])
    widened = torch.nn.functional.pad(ids, (0, 5), value=scorable.pad_id)
    left = torch.full_like(widened, scorable.pad_id)
    for row, conversation in enumerate(conversations):
        left[row, -len(conversation.ids) :] = torch.tensor(conversation.ids)
    found = RewardCheck(
        *(
            float((scores - expected).abs().max())
            for scores in (alone, logits(ids), logits(widened), logits(left))
        )
    )
    allowed = TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
    if not np.isfinite(found.largest) or found.largest > allowed:
        raise CheckpointError(
            f"{folder}: scores differ from those in memory by {found}, expected at most {allowed:.2g}.",
            "Save in float32; if it stays, the model's family does not pad cleanly.",
        )
    return found
