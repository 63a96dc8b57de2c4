"""Which original indices survive a trim, checked against the model before anything is cut."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from niwaki.errors import FamilyError
from niwaki.ground.family import Family

_LEADING = {"ffn": ("layer",), "kv": ("layer",), "expert": ("layer",), "group": ("layer", "kv")}


def kept_sizes(family: Family, sizes: Mapping[str, int], keep: Mapping[str, Tensor]) -> dict[str, int]:
    """Check `keep` against the sizes of the original model and return the sizes of the trimmed one.

    Args:
        family: the model's table.
        sizes: axis -> size of the original model.
        keep: axis -> int64 indices, ascending, numbered as in the original model: `layer`, `hidden` [n];
            `ffn`, `kv`, `expert` [L, n]; `group` [L, KV, n]; `effn` [L, n] or [L, E, n]. The leading sizes
            L, KV and E are those of the original model. An absent axis is kept whole.

    Raises:
        FamilyError: an axis that this family cannot trim, indices of the wrong shape or dtype, out of range,
            repeated or not ascending, or sizes that no model of the family can have.
    """
    for axis, indices in keep.items():
        if axis not in family.axes:
            raise FamilyError(
                f"{family.model_type}: keep names axis {axis!r}, which this family cannot trim.",
                f"Use some of: {' '.join(family.axes)}.",
            )
        _check_indices(axis, indices, sizes)
    new_sizes = dict(sizes) | {axis: indices.shape[-1] for axis, indices in keep.items()}
    family.check(new_sizes)
    return new_sizes


def _check_indices(axis: str, indices: Tensor, sizes: Mapping[str, int]) -> None:
    if indices.dtype != torch.int64:
        raise FamilyError(
            f"keep[{axis!r}]: dtype {indices.dtype}, expected torch.int64.", "Convert the indices."
        )
    per_expert = ("layer", "expert") if indices.ndim == 3 else ("layer",)
    leading = tuple(sizes[outer] for outer in (per_expert if axis == "effn" else _LEADING.get(axis, ())))
    if tuple(indices.shape[:-1]) != leading or indices.ndim == 0 or indices.numel() == 0:
        raise FamilyError(
            f"keep[{axis!r}]: shape {tuple(indices.shape)}, expected {[*leading, 'n']} with n at least 1.",
            "Give every layer of the original model (and every group or expert) the same number of indices.",
        )
    if int(indices.min()) < 0 or int(indices.max()) >= sizes[axis]:
        raise FamilyError(
            f"keep[{axis!r}]: indices from {int(indices.min())} to {int(indices.max())}, "
            f"expected 0 to {sizes[axis] - 1}.",
            "Number the indices as in the original model.",
        )
    if not bool((indices.diff(dim=-1) > 0).all()):
        raise FamilyError(
            f"keep[{axis!r}]: indices repeat or are not ascending.",
            "Sort each row: survivors keep their original order, so that keeping everything changes nothing.",
        )
