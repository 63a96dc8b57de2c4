"""The residual of pruned heads: what a kept query head takes over from one that goes.

Minitron (arXiv 2407.14679, section 2.2 "Trimming") sorts L heads by importance, keeps K and sets
head_i <- head_i + (head_i - head_j) with j = 2K - i + 1, on query heads only where key-value heads are
shared. It reports no figure for it, the printed range of i needs a head L + 1 (here i runs from 2K - L + 1),
and the printed sign pushes a kept head away from the lost one. Both signs are offered, none by default. Pairs
stay inside one key-value head, because queries of another look at other keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from niwaki.errors import FamilyError, RecipeError
from niwaki.ground.axes import parse
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.family import family_of
from niwaki.pruning.edit import Edit

Direction = Literal["away", "towards"]
_QUERIES = ("kv", "group", "dim")


def pairs(num_heads: int, num_kept: int) -> list[tuple[int, int]]:
    """(kept, lost) heads by rank, 1 for the most important.

    Raises RecipeError when more heads go than stay, because then not every lost one has a partner.
    """
    if 2 * num_kept < num_heads:
        raise RecipeError(
            f"head_residual: {num_kept} of {num_heads} query heads of a key-value head stay, not half.",
            f"Keep at least {-(-num_heads // 2)} (choose.grid), or write trim.head_residual: none.",
        )
    return [(i, 2 * num_kept - i + 1) for i in range(2 * num_kept - num_heads + 1, num_kept + 1)]


def head_residual(source: Path, *, importance: Tensor, num_kept: int, direction: Direction) -> Edit:
    """The edit that changes the query rows of kept heads before a trim.

    Args:
        source: the model folder.
        importance: [L, KV, G], of every query head; equal ones rank by position, as in `select`.
        num_kept: query heads that each key-value head keeps.
        direction: "away" is the paper's kept + (kept - lost); "towards" is kept + (lost - kept), which puts
            the lost head's queries in the place of the kept one's.

    Raises:
        FamilyError: the family has no query heads apart from key-value heads.
        RecipeError: fewer than half of the heads are kept.
    """
    config = Checkpoint(source).config
    family = family_of(config)
    if "group" not in family.axes:
        raise FamilyError(
            f"{family.model_type}: no query heads share a key-value head, so none can take over.",
            "Write trim.head_residual: none.",
        )
    sizes = family.axis_sizes(config)
    ranked = pairs(sizes["group"], num_kept)
    order = importance.sort(dim=-1, descending=True, stable=True).indices
    sign = 1 if direction == "away" else -1

    def apply(name: str, tensor: Tensor) -> Tensor:
        match = family.match(name)
        dims = parse(match.expr)
        of_projection = len(dims) == 2 or name.endswith(".bias")  # a norm over queries is neither
        if _QUERIES not in dims[0] or not of_projection:
            return tensor
        assert dims[0][0] == _QUERIES, match.pattern
        assert match.layer is not None, match.pattern
        num_rows = sizes["kv"] * sizes["group"] * sizes["dim"]
        changed = tensor.clone()
        heads = (sizes["kv"], sizes["group"], sizes["dim"], *tensor.shape[1:])
        before, after = tensor[:num_rows].reshape(heads).float(), changed[:num_rows].view(heads)
        for kv, ranking in enumerate(order[match.layer].tolist()):
            for rank, lost_rank in ranked:
                kept, lost = ranking[rank - 1], ranking[lost_rank - 1]
                moved = before[kv, kept] + sign * (before[kv, kept] - before[kv, lost])
                after[kv, kept] = moved.to(tensor.dtype)
        return changed

    return Edit(f"head residual {direction}", apply)
