"""How far two masks are apart, and which layers mind being masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from niwaki.masks.patterns import Pattern

_BLOCK_GROUPS = 2**20


@dataclass(frozen=True)
class Difference:
    """Shares from 0 to 1: of groups that keep other weights, and of single weights kept in one mask only.

    A group that exchanges one kept weight counts two of its M entries in `entries`.
    """

    groups: float
    entries: float
    num_groups: int


def difference(one_G: Tensor, other_G: Tensor, pattern: Pattern) -> Difference:
    """Compare two masks of one tensor, candidate numbers [G]."""
    num_groups = len(one_G)
    rows_CM = pattern.candidates_CM.float()
    apart_CC = 2 * (pattern.kept - rows_CM @ rows_CM.T)
    changed, entries = 0, 0.0
    for one, other in zip(one_G.split(_BLOCK_GROUPS), other_G.split(_BLOCK_GROUPS), strict=True):
        differs = one != other
        changed += int(differs.sum())
        entries += float(apart_CC[one[differs].long(), other[differs].long()].sum())
    return Difference(changed / num_groups, entries / (num_groups * pattern.group), num_groups)


def differences(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], pattern: Pattern
) -> tuple[Difference, dict[str, Difference]]:
    """Of all tensors together, and tensor by tensor, for masks of the same tensors."""
    each = {name: difference(one[name], other[name], pattern) for name in one}
    total = sum(found.num_groups for found in each.values())
    whole = Difference(
        sum(found.groups * found.num_groups for found in each.values()) / total,
        sum(found.entries * found.num_groups for found in each.values()) / total,
        total,
    )
    return whole, each


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    pattern: Pattern,
    layer_of: Callable[[str], int],
    measure: Callable[[], float],
) -> tuple[float, dict[int, float]]:
    """What `measure` says of the dense model, and what it gains when one layer alone is masked.

    Args:
        model: in memory; as it was in the end.
        masks: tensor name -> candidate numbers [G].
        measure: of the model as it is then, such as a loss on calibration rows.
    """
    dense = measure()
    found: dict[int, float] = {}
    for layer in sorted({layer_of(name) for name in masks}):
        kept: dict[str, Tensor] = {}
        for name, numbers in masks.items():
            if layer_of(name) == layer:
                weight = model.get_parameter(name)
                kept[name] = weight.detach().clone()
                weight.masked_fill_(~pattern.mask(numbers, weight.shape).to(weight.device), 0)
        found[layer] = measure() - dense
        for name, before in kept.items():
            model.get_parameter(name).copy_(before)
    return dense, found
