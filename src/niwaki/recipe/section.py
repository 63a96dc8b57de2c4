"""What all sections of a recipe share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """What all sections share: no unknown keys, no later change, defaults checked like written values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def check_training(*, learning_rate: float, min_learning_rate: float, tokens: int, batch_tokens: int) -> None:
    """What every section that trains on tokens must agree on. Raises ValueError, as a pydantic check does."""
    if min_learning_rate > learning_rate:
        raise ValueError(f"min_learning_rate {min_learning_rate:g} is above learning_rate {learning_rate:g}.")
    if tokens < batch_tokens:
        raise ValueError(f"tokens ({tokens:,}) do not fill one batch_tokens ({batch_tokens:,}).")
