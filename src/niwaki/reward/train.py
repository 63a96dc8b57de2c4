"""Training of reward models through the one loop (arXiv 2410.01257, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.errors import RecipeError
from niwaki.ground.loop import FitResult, Loss, RowSource, fit
from niwaki.reward.losses import BradleyTerry, bradley_terry, masked_squared_errors
from niwaki.reward.model import HEAD, score_rows, stock_of


def preference_loss(form: BradleyTerry) -> Loss:
    """Bradley-Terry over the pairs of a batch of `PairRows`, summed over pairs; means are over pairs."""

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        scores = score_rows(model, batch["ids"], batch["last"])[:, 0].view(-1, 2)
        d = scores[:, 0] - scores[:, 1]
        each = bradley_terry(d, batch["strength"], form=form, q=batch["q"])
        return each.sum(), {"accuracy": (d > 0).sum().detach(), "margin": d.sum().detach()}

    return loss


def rating_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared errors of the ratings of a batch of `RatingRows`; the mean is over the labels there are."""
    predicted = score_rows(model, batch["ids"], batch["last"])
    return masked_squared_errors(predicted, batch["labels"], batch["mask"]).sum(), {}


def train(
    model: nn.Module,
    rows: RowSource,
    loss: Loss,
    *,
    out: Path,
    num_steps: int,
    batch_rows: int,
    micro_rows: int,
    learning_rate: float,
    min_learning_rate: float | None = None,
    head_rate_factor: float = 1.0,
    warmup_steps: int = 10,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.98),
    **options: Any,
) -> FitResult:
    """Train a classifier or a justifier in place; the defaults are those of the paper's training code.

    Args:
        batch_rows: pairs, or rated answers, of one step; the paper's "128" are 64 pairs.
        min_learning_rate: the learning rate at the end; constant by default.
        head_rate_factor: the head learns faster than the rest by this much, which short trainings need.
        options: the rest of `ground.loop.fit`.
    """
    stock: Any = stock_of(model)
    parts = {"": 1.0}
    if head_rate_factor != 1.0:
        prefix = "base_model.model." if stock is not model else ""
        parts = {f"{prefix}{stock.base_model_prefix}": 1.0, f"{prefix}{HEAD}": head_rate_factor}
    model.train()
    return fit(
        model,
        rows,
        loss,
        out=out,
        num_steps=num_steps,
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        learning_rate=learning_rate,
        min_learning_rate=learning_rate if min_learning_rate is None else min_learning_rate,
        warmup_steps=min(warmup_steps, max(0, num_steps - 1)),
        rate_factors=parts,
        weight_decay=weight_decay,
        betas=betas,
        **options,
    )


def with_lora(model: PreTrainedModel, *, rank: int, alpha: float | None = None, seed: int = 0) -> Any:
    """Wrap a model with LoRA on all its linear layers; the head of a sequence classifier is trained whole.

    `merged` gives the plain model back. `alpha` is twice the rank by default.

    Raises:
        RecipeError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise RecipeError(
            "LoRA needs peft.", "Run `pip install niwaki[reward]`, or train all weights."
        ) from error
    scores = hasattr(model, HEAD)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(
            model,
            LoraConfig(
                task_type="SEQ_CLS" if scores else "CAUSAL_LM",
                r=rank,
                lora_alpha=2 * rank if alpha is None else alpha,
                target_modules="all-linear",
                modules_to_save=[HEAD] if scores else None,
            ),
        )


def merged(model: Any) -> PreTrainedModel:
    """The plain model of a LoRA one, its weights merged in float32; a plain model as it is."""
    plain: PreTrainedModel = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return plain
