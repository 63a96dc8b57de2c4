"""One rotation of the hidden stream, so that a hidden cut drops the directions that matter least.

RMSNorm keeps a rotation: for orthogonal Q, norm(x Q) = norm(x) Q once its weight is folded into the matrices
that read it. So a basis of the whole stream can be changed without changing the model: what writes to the
stream is multiplied by Q on its way out, what reads from it on its way in (the invariance behind SliceGPT,
arXiv 2401.15024, section 3.1; there each block gets a basis of its own, which needs extra matrices between
blocks and so another model class). One basis for all blocks leaves a model of the same class. With the
principal components of the stream as basis, most important first, a hidden cut keeps the first channels.

A tied embedding has to be untied: it writes to the stream, and the head, which reads from it, takes the final
norm's weight.

Shapes: B samples, S tokens, N = B * S, d hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.errors import FamilyError
from niwaki.ground import processes
from niwaki.ground.axes import axes_of, parse
from niwaki.ground.calibration import Rows
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.family import Family, family_of
from niwaki.ground.layers import layer_output
from niwaki.ground.progress import progress
from niwaki.ground.streamed import passes_per_batch, rows_at_once
from niwaki.ground.walk import decode
from niwaki.pruning.edit import Edit
from niwaki.pruning.trim import TrimRecord, trim

_HIDDEN = (("hidden",),)
_CHUNK_ROWS = 4096


def check_rotatable(family: Family) -> None:
    """Raise FamilyError, with the reason, for a family whose hidden stream cannot be rotated."""
    if family.no_rotation:
        raise FamilyError(
            f"{family.model_type}: the hidden stream cannot be rotated: {family.no_rotation}.",
            "Cut its hidden channels by their importance instead (trim.rotate: false).",
        )


def second_moment(model: PreTrainedModel, rows: Rows, *, num_samples: int, batch_rows: int) -> Tensor:
    """Mean of u u^T over tokens and norms, [d, d] float64, where u = x / rms(x) is what a norm makes of x.

    Every norm in front of attention, MLP and head counts alike: they see directions and no lengths, and the
    stream grows from layer to layer. A streamed model is read once for as many batches as memory holds.
    Collective: each of several processes hears part of the rows, and all get the mean of all.

    Raises FamilyError for a family that cannot be rotated.
    """
    family = family_of(model.config)
    check_rotatable(family)
    num_hidden = family.axis_sizes(model.config)["hidden"]
    moment_dd = torch.zeros(num_hidden, num_hidden, dtype=torch.float64)
    num_vectors = 0
    valid_BS = torch.ones(())

    def hear(x: Tensor) -> None:
        nonlocal num_vectors
        x_Nd = x[valid_BS.to(x.device)].float()
        u_Nd = x_Nd * x_Nd.square().mean(-1, keepdim=True).clamp_min(1e-20).rsqrt()
        moment_dd.add_((u_Nd.T @ u_Nd).to("cpu", torch.float64))
        num_vectors += len(u_Nd)

    device = model.get_input_embeddings().weight.device
    row_tokens = rows.take(0, 1)["inputs"].shape[1]
    at_once = rows_at_once(model, batch_rows=batch_rows, row_tokens=row_tokens)
    mine = processes.my_part(num_samples, step=batch_rows)
    total = len(mine[::batch_rows]) * passes_per_batch(model)
    with _listening(model, family, hear), progress("basis", total=total) as bar:
        for first in range(mine.start, mine.stop, at_once):
            end = min(first + at_once, mine.stop)
            batches = [
                rows.take(start, min(batch_rows, end - start)) for start in range(first, end, batch_rows)
            ]

            @contextmanager
            def around(number: int, batches: list[dict[str, Tensor]] = batches) -> Iterator[None]:
                nonlocal valid_BS
                valid_BS = batches[number]["mask"]
                yield
                bar.advance()

            arguments = [{"input_ids": batch["inputs"].to(device)} for batch in batches]
            for _ in decode(model, arguments, around=around):
                pass
    processes.add_up([moment_dd])
    return moment_dd / sum(processes.gather(num_vectors))


def principal_basis(moment: Tensor) -> Tensor:
    """Orthonormal columns [d, d] float64 of a second moment [d, d], of largest eigenvalue first.

    The largest entry of each column is positive, so that equal moments give equal bases.
    """
    basis = torch.linalg.eigh(moment).eigenvectors.flip(-1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return basis * largest.sign()


def rotation(source: Path, basis: Tensor) -> Edit:
    """The edit that changes the basis of the hidden stream of the model in `source`; alone it moves no logit.

    Args:
        source: a Hugging Face folder; the weights of its norms are read from it.
        basis: [d, d], orthonormal columns.

    Raises:
        FamilyError: the family cannot be rotated, or the basis is of another size.
    """
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.config)
    check_rotatable(family)
    num_hidden = family.axis_sizes(checkpoint.config)["hidden"]
    if tuple(basis.shape) != (num_hidden, num_hidden):
        raise FamilyError(
            f"{source}: a basis of shape {tuple(basis.shape)} for a model with hidden={num_hidden}.",
            "Compute the basis with this model.",
        )

    def apply(name: str, tensor: Tensor) -> Tensor:
        match = family.match(name)
        dims, pattern = parse(match.expr), match.pattern
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        q = basis.to(dtype)
        if dims == (_HIDDEN,):
            if pattern.endswith(".weight"):  # of a norm: folded into what reads it
                return torch.full_like(tensor, 1 - family.norm_offset)
            return (tensor.to(dtype) @ q).to(tensor.dtype)  # the bias of a matrix that writes
        if dims[-1] == _HIDDEN:
            norm = _norm_before(family, pattern, match.expr)
            if norm is not None:
                gain = checkpoint.read(f"{norm.format(layer=match.layer)}.weight").to(dtype)
                q = (gain + family.norm_offset)[:, None] * q
            return _in_chunks(tensor, lambda rows: rows.to(dtype) @ q)
        if len(dims) > 1 and dims[-2] == _HIDDEN:
            return (q.T @ tensor.to(dtype)).to(tensor.dtype)
        return tensor

    digest = hashlib.sha256(basis.double().contiguous().numpy().tobytes()).hexdigest()[:16]
    return Edit(f"rotation {digest}", apply, unties=True)


def rotate(source: Path, out: Path, *, basis: Tensor) -> TrimRecord:
    """Rotate a model folder and cut nothing: the same logits, a head of its own, norm weights of one.

    One tensor is in memory at a time. Arguments and errors as of `rotation` and `trim`.
    """
    return trim(source, out, keep={}, edits=[rotation(source, basis)])


def _norm_before(family: Family, pattern: str, expr: str) -> str | None:
    """The norm whose output a matrix reads; None for the embedding, which is no reader."""
    if pattern == f"{family.embedding}.weight":
        return None
    if pattern == f"{family.head}.weight":
        return family.sites.final_norm
    attention, mlp = family.sites.norms
    return attention if "kv" in axes_of(expr) else mlp


def _in_chunks(tensor: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a map of rows without another copy of the whole tensor in a wider dtype."""
    changed = torch.empty_like(tensor)
    for start in range(0, len(tensor), _CHUNK_ROWS):
        changed[start : start + _CHUNK_ROWS] = apply(tensor[start : start + _CHUNK_ROWS])
    return changed


@contextmanager
def _listening(model: PreTrainedModel, family: Family, hear: Callable[[Tensor], None]) -> Iterator[None]:
    """Give `hear` what every norm is given, with the model in evaluation mode and without gradients.

    What the last norm is given is heard where the last layer makes it: a streamed model runs that norm behind
    each of its layers.
    """
    layers = range(family.axis_sizes(model.config)["layer"])
    names = [norm.format(layer=layer) for layer in layers for norm in family.sites.norms]
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args: hear(args[0])) for name in names
    ]
    last = model.get_submodule(family.sites.block.format(layer=layers[-1]))
    handles.append(last.register_forward_hook(lambda _, args, output: hear(layer_output(output))))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
