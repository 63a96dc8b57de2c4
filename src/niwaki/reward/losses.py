"""What reward models are trained on: pure functions of scores (arXiv 2410.01257, section 3).

d is the score of the chosen answer minus that of the rejected one, m the strength of the preference.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

BradleyTerry = Literal["regular", "margin", "scaled"]


def bradley_terry(d: Tensor, strength: Tensor, *, form: BradleyTerry, q: Tensor | None = None) -> Tensor:
    """Loss of each pair [P].

    regular: -log s(d). margin: -log s(d - m). scaled: -m log s(d), which equals the pair m times.

    With `q`, the probability that the chosen answer is the better one, every -log s(x) becomes
    -q log s(x) - (1 - q) log s(-x); 0.5 is a tie. The paper has q = 1.
    """
    x = d - strength if form == "margin" else d
    loss = -logsigmoid(x) if q is None else -(q * logsigmoid(x) + (1 - q) * logsigmoid(-x))
    return strength * loss if form == "scaled" else loss


def masked_squared_errors(predicted: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Squared errors [B, K], 0 where the label is missing; the loss is their sum by the number of labels."""
    return torch.where(mask, (predicted - labels) ** 2, 0.0)
