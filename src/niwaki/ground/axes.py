"""Axis expressions: what the dimensions of a tensor mean, in words one can say aloud.

An expression has one term per tensor dimension, outermost first:

    "hidden ffn"                                   two plain axes
    "(kv group dim) hidden"                        one dimension that unflattens into three axes
    "(2 ffn) hidden"                               numbers are allowed and are never trimmed
    "[(kv group dim) | (kv dim) | (kv dim)] hidden"   one dimension that concatenates blocks

This module knows the vocabulary and nothing about models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain, product
from math import prod

import torch
from torch import Tensor

from niwaki.errors import FamilyError

AXES = ("layer", "hidden", "ffn", "kv", "group", "dim", "expert", "effn", "vocab")
"""The one vocabulary of axes, in the order in which they are reported."""

PARENTS = {"group": "kv", "effn": "expert"}
"""Axes that may keep different indices in every entry of another axis."""

Block = tuple[str, ...]
Dim = tuple[Block, ...]
Sizes = Mapping[str, int]
Keep = Mapping[str, Tensor]

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_TERM = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|[^\s\[\]()|]+")


@cache
def parse(expr: str) -> tuple[Dim, ...]:
    """Split an expression into dimensions, each a tuple of blocks, each a tuple of axis names or numbers.

    >>> parse("[(kv dim) | ffn] hidden")
    ((('kv', 'dim'), ('ffn',)), (('hidden',),))

    Raises:
        FamilyError: brackets that do not match, an empty term, or a word that is no axis.
    """
    if _TERM.sub("", expr).strip() or not expr.strip():
        raise _malformed(expr, "brackets or bars do not match")
    dims = []
    for term in _TERM.findall(expr):
        blocks = term[1:-1].split("|") if term.startswith("[") else [term]
        dims.append(tuple(_parse_block(block.strip(), expr) for block in blocks))
    return tuple(dims)


def axes_of(expr: str) -> tuple[str, ...]:
    """Name the axes of an expression, each once, in order of appearance; numbers are left out."""
    names = chain.from_iterable(chain.from_iterable(parse(expr)))
    return tuple(dict.fromkeys(name for name in names if not _NUMBER.fullmatch(name)))


def shape(expr: str, sizes: Sizes) -> tuple[int, ...]:
    """Compute the shape of a tensor with this expression.

    Raises:
        FamilyError: malformed expression, or an axis without a size.
    """
    return tuple(sum(_length(block, expr, sizes) for block in dim) for dim in parse(expr))


def count(expr: str, sizes: Sizes) -> int:
    """Count the elements of a tensor with this expression."""
    return prod(shape(expr, sizes))


def take(tensor: Tensor, expr: str, sizes: Sizes, keep: Keep, layer: int | None = None) -> Tensor:
    """Keep only the indices in `keep` along every named axis of `tensor`.

    Args:
        tensor: shaped as `expr` and `sizes` say; its dtype and device are kept.
        expr: axis expression.
        sizes: axis -> size before taking.
        keep: axis -> int64 indices: `[n]`; `[L, n]` with one row per layer; or `[L, P, n]` with one row
            per layer and entry of the parent axis (`kv` for `group`, `expert` for `effn`), where P is
            the number of entries before taking. Absent axes are kept whole.
        layer: the layer the tensor belongs to; picks the row of per-layer indices.

    Raises:
        FamilyError: the tensor is not shaped as the table says, or `keep` cannot be applied.
    """
    dims = parse(expr)
    _check_shape(tensor, expr, sizes)
    lengths = [[_length(block, expr, sizes) for block in dim] for dim in dims]
    # One piece per choice of a block in every dimension; without "[a | b]" there is a single piece.
    pieces = [
        _take_blocks(piece, blocks, expr, sizes, keep, layer)
        for piece, blocks in zip(_split(tensor, lengths), product(*dims), strict=True)
    ]
    return _join(pieces, [len(dim) for dim in dims])


def kept_per_dim(expr: str, sizes: Sizes, keep: Keep, layer: int | None = None) -> tuple[Tensor, ...]:
    """List, for each dimension of a tensor, the indices that `take` keeps of it; the arguments are the same.

    Raises:
        FamilyError: `keep` cannot be applied, or keeps other indices of one dimension for every index of
            another (`effn` in a tensor "expert effn hidden").
    """
    terms = _TERM.findall(expr)
    positions = [torch.arange(size) for size in shape(expr, sizes)]
    return tuple(take(whole, term, sizes, keep, layer) for whole, term in zip(positions, terms, strict=True))


def sum_per_unit(tensor: Tensor, expr: str, sizes: Sizes, axis: str) -> Tensor | None:
    """Sum the elements of a tensor that belong to each unit of one axis, in float64.

    Args:
        tensor: shaped as `expr` and `sizes` say.
        expr: axis expression.
        sizes: axis -> size.
        axis: whose units are asked for.

    Returns:
        [size of the axis], or [P, size] where the axis has a parent (`group` in each `kv`, `effn` in each
        `expert`); None when no block of the expression names the axis.

    Raises:
        FamilyError: the tensor is not shaped as the table says.
    """
    units = (PARENTS[axis], axis) if axis in PARENTS else (axis,)
    dims = parse(expr)
    _check_shape(tensor, expr, sizes)
    lengths = [[_length(block, expr, sizes) for block in dim] for dim in dims]
    total = None
    for piece, blocks in zip(_split(tensor, lengths), product(*dims), strict=True):
        names = tuple(chain.from_iterable(blocks))
        if axis not in names:
            continue
        wide = piece.reshape([_axis_size(name, expr, sizes) for name in names])
        wide = wide.movedim([names.index(unit) for unit in units], list(range(len(units))))
        found = wide.reshape([*wide.shape[: len(units)], -1]).sum(-1, dtype=torch.float64)
        total = found if total is None else total + found
    return total


def _parse_block(block: str, expr: str) -> Block:
    if block.startswith("("):
        if not block.endswith(")") or block.count("(") != 1:
            raise _malformed(expr, f"block {block!r} is not one pair of round brackets")
        block = block[1:-1]
    elif len(block.split()) > 1:
        raise _malformed(expr, f"axes {block!r} of one block need round brackets")
    names = tuple(block.split())
    if not names:
        raise _malformed(expr, "a term is empty")
    for name in names:
        known = name in AXES and name != "layer"
        if not known and not _NUMBER.fullmatch(name):
            raise _malformed(expr, f"{name!r} is no tensor axis ({' '.join(AXES[1:])}) and no number")
    if len(set(names)) < len(names):
        raise _malformed(expr, f"block {block!r} names an axis twice")
    return names


def _malformed(expr: str, why: str) -> FamilyError:
    return FamilyError(
        f"Axis expression {expr!r}: {why}.",
        'Write one term per tensor dimension, such as "(kv group dim) hidden"; see docs/families.md.',
    )


def _axis_size(name: str, expr: str, sizes: Sizes) -> int:
    if _NUMBER.fullmatch(name):
        return int(name)
    if name not in sizes:
        raise FamilyError(
            f"Axis expression {expr!r}: axis {name!r} has no size; known sizes: {dict(sizes)}.",
            "Name the config field of this axis in the family's `sizes`.",
        )
    return sizes[name]


def _length(block: Block, expr: str, sizes: Sizes) -> int:
    return prod(_axis_size(name, expr, sizes) for name in block)


def _check_shape(tensor: Tensor, expr: str, sizes: Sizes) -> None:
    expected = shape(expr, sizes)
    found = tuple(tensor.shape)
    if found == expected:
        return
    wrong = [d for d, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b]
    where = f"dim {wrong[0]}" if wrong and len(expected) == len(found) else f"{len(expected)} dims"
    raise FamilyError(
        f"Axis expression {expr!r}, {where}: the table says {expected}, the tensor has {found}.",
        "Correct the line in the family's table, or check that config.json belongs to these weights.",
    )


def _split(tensor: Tensor, lengths: list[list[int]]) -> Iterator[Tensor]:
    """Cut every dimension into its blocks; the last dimension varies fastest, as in `product`."""
    pieces = [tensor]
    for dim, parts in enumerate(lengths):
        pieces = [part for piece in pieces for part in piece.split(parts, dim)]
    return iter(pieces)


def _join(pieces: list[Tensor], num_blocks: list[int]) -> Tensor:
    for dim in reversed(range(len(num_blocks))):
        n = num_blocks[dim]
        if n > 1:
            pieces = [torch.cat(pieces[i : i + n], dim) for i in range(0, len(pieces), n)]
    return pieces[0]


def _take_blocks(
    tensor: Tensor, blocks: tuple[Block, ...], expr: str, sizes: Sizes, keep: Keep, layer: int | None
) -> Tensor:
    """Take from a tensor whose dimensions are one block each: one dim per axis, select, flatten again."""
    names = tuple(chain.from_iterable(blocks))
    selected = _select(
        tensor.reshape([_axis_size(name, expr, sizes) for name in names]),
        names,
        {name: _indices(keep[name], name, expr, layer) for name in names if name in keep},
        expr,
    )
    remaining = iter(selected.shape)
    return selected.reshape([prod(next(remaining) for _ in block) for block in blocks])


def _indices(kept: Tensor, name: str, expr: str, layer: int | None) -> Tensor:
    if kept.ndim == 1:
        return kept
    if layer is None:
        raise FamilyError(
            f"Axis expression {expr!r}: keep[{name!r}] has shape {tuple(kept.shape)}, one row per layer, "
            "but the tensor belongs to no layer.",
            f"Give one index set [n] for axis {name!r}, or correct the family's table.",
        )
    return kept[layer]


def index_select(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """`torch.index_select`; through numpy in memory, which is six times as fast along the last dimension."""
    if tensor.device.type != "cpu" or tensor.requires_grad or tensor.itemsize not in _INTEGERS:
        return tensor.index_select(dim, indices.to(tensor.device))
    raw = tensor.view(_INTEGERS[tensor.itemsize]).numpy()
    return torch.from_numpy(raw.take(indices.cpu().numpy(), axis=dim)).view(tensor.dtype)


def _select(tensor: Tensor, names: Block, indices: dict[str, Tensor], expr: str) -> Tensor:
    for position, name in enumerate(names):
        if name in indices and indices[name].ndim == 1:
            tensor = index_select(tensor, position, indices[name])
    for position, name in enumerate(names):
        if name in indices and indices[name].ndim == 2:
            parent = PARENTS.get(name)
            if parent not in names[:position]:
                raise FamilyError(
                    f"Axis expression {expr!r}: keep[{name!r}] differs per {parent}, "
                    f"but {parent} does not come before {name}.",
                    f"Give one index set per layer for axis {name!r}, or correct the family's table.",
                )
            rows = indices[name]
            if parent in indices:
                rows = rows[indices[parent]]
            broadcast = [1] * tensor.ndim
            broadcast[names.index(parent)], broadcast[position] = rows.shape
            tensor = tensor.take_along_dim(rows.reshape(broadcast).to(tensor.device), position)
    return tensor
