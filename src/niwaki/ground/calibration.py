"""Calibration rows: what every measure that runs the model reads, checked as it is read."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from niwaki.errors import DataError


class Rows(Protocol):
    """A calibration set whose rows are samples."""

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        """Rows from `start`: "inputs" [count, S] int64 and "mask" [count, S] bool, True at valid tokens.

        Measures that need a loss also read "targets" [count, S], the next token at each valid one.
        """
        ...


def take_rows(rows: Rows, start: int, count: int) -> dict[str, Tensor]:
    """Rows from `start`. Raises DataError when there are fewer than `count`, or one has no valid token."""
    batch = rows.take(start, count)
    if len(batch["inputs"]) != count:
        raise DataError(
            f"Calibration set: {start + len(batch['inputs'])} rows found, {start + count} needed.",
            "Use fewer samples or more text.",
        )
    num_valid = batch["mask"].sum(1)
    if not num_valid.all():
        raise DataError(
            f"Calibration row {start + int(num_valid.argmin())} has no valid token.", "Remove empty rows."
        )
    return batch


def decoder_arguments(batch: dict[str, Tensor], device: torch.device) -> dict[str, Any]:
    """Keyword arguments for the decoder: the rows, and where they are padded what hides that."""
    arguments: dict[str, Any] = {"input_ids": batch["inputs"].to(device)}
    valid_BS = batch["mask"].to(device)
    if not bool(valid_BS.all()):
        # A row that is padded on the left must see the positions that it would have alone.
        positions_BS = (valid_BS.long().cumsum(1) - 1).clamp_min(0)
        arguments |= {"attention_mask": valid_BS.long(), "position_ids": positions_BS}
    return arguments
