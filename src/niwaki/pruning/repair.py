"""Closed-form repair: refit the matrices of a trimmed model so that each gives what its teacher's gave.

A matrix is linear, so the best one on calibration rows is a least squares problem. Teacher and student run
side by side, one layer at a time, over all rows; in the order in which a layer computes: query, key and
value, attention's output, gate and up, the MLP's output. X is the matrix's input in the student, with every
earlier matrix repaired; Y is the teacher's output there, cut (and rotated) as the student is. What writes to
the hidden stream is also asked to close the gap between the two streams that is there already.

The ridge pulls towards the matrix as it was and not towards zero: directions of which the rows say nothing
stay as trimmed. How hard, rows decide that were not fitted on.

Linear modules are repaired. Experts and routers, norms, embedding and head are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.errors import DataError
from niwaki.ground import processes
from niwaki.ground.axes import axes_of, kept_per_dim, parse
from niwaki.ground.calibration import Rows
from niwaki.ground.family import Family, family_of
from niwaki.ground.progress import progress
from niwaki.ground.streamed import holding
from niwaki.pruning.refit import Moments, apply, solve

_HIDDEN = (("hidden",),)
_CHECK_EVERY = 4  # one batch in so many is not fitted on while the ridge is chosen
_ADDED = 1e-3  # a stream that grows by a multiple of what is written does so to this relative error


@dataclass(frozen=True)
class Repair:
    """What became of one matrix.

    Attributes:
        name: of the module in the student.
        ridge: the one chosen, relative to the mean square of the inputs; None when the matrix stayed.
        error_before, error_after: |Y - X W|^2 / |Y|^2 over all rows.
    """

    name: str
    ridge: float | None
    error_before: float
    error_after: float


class _HeardEnoughError(Exception):
    """Ends the run of a layer or a model; never leaves this module."""


@dataclass
class _Side:
    """One of the two models, in front of the layer that `states` are the inputs of.

    `first_batch` numbers the first of `states` among the batches of all processes.
    """

    model: PreTrainedModel
    first_batch: int
    states: list[Tensor]
    calls: list[dict[str, Any]]

    def run(self, family: Family, layer: int, batch: int) -> Tensor:
        """The output of a layer for one batch."""
        block = self.model.get_submodule(family.sites.block.format(layer=layer))
        out = block(self.states[batch].to(self.model.device), **self.calls[layer])
        return out if isinstance(out, Tensor) else out[0]

    def advance(self, family: Family, layer: int) -> None:
        """Go through a layer with every batch."""
        with holding(self.model, layer):
            self.states = [self.run(family, layer, batch).to("cpu") for batch in range(len(self.states))]

    def hear(
        self,
        family: Family,
        layer: int,
        batch: int,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        whole: bool = False,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """What modules of a layer are given or give for one batch, by the name pattern of the module.

        The layer stops when all are heard; with `whole` it runs to its end, and its output comes too.
        """
        heard: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> None:
            heard[name] = value
            if not whole and len(heard) == len(inputs) + len(outputs):
                raise _HeardEnoughError

        handles = [
            self.model.get_submodule(name.format(layer=layer)).register_forward_pre_hook(
                lambda _, args, name=name: keep(name, args[0])
            )
            for name in inputs
        ]
        handles += [
            self.model.get_submodule(name.format(layer=layer)).register_forward_hook(
                lambda _, args, out, name=name: keep(name, out)
            )
            for name in outputs
        ]
        try:
            return heard, self.run(family, layer, batch)
        except _HeardEnoughError:
            return heard, None
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def repair(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    rows: Rows,
    *,
    keep: Mapping[str, Tensor],
    num_samples: int,
    batch_rows: int,
    basis: Tensor | None = None,
) -> list[Repair]:
    """Refit the student's matrices in place.

    Needs the student in memory, the hidden states of all rows twice, and the sums of one layer's matrices.
    Collective: each of several processes has part of the rows, and all repair their student alike.

    Args:
        student: the trimmed teacher, in float32.
        teacher: in memory or streamed; then each of its layers is read twice.
        rows: whole rows without padding; `num_samples` of them, rounded down to full batches of `batch_rows`.
        keep: what the trim kept; see `docs/architecture.md`.
        basis: [d, d], when the teacher was rotated before the cut.

    Raises:
        DataError: fewer than two full batches.
    """
    num_batches = num_samples // batch_rows
    if num_batches < 2:
        raise DataError(
            f"{num_samples} rows are not two batches of {batch_rows}, which a repair needs.",
            "Give more calibration rows (score.num_samples), or smaller batches (score.batch_rows).",
        )
    family = family_of(student.config)
    cut = _Cut(family, family.axis_sizes(teacher.config), keep, basis)
    sides = [_begin(m.eval(), family, rows, num_batches, batch_rows) for m in (teacher, student)]
    layers = keep.get("layer", torch.arange(cut.sizes["layer"])).tolist()
    repairs: list[Repair] = []
    next_layer = 0
    with progress("repair", total=len(layers)) as bar:
        for new, old in enumerate(layers):
            for dropped in range(next_layer, old):
                sides[0].advance(family, dropped)
            with holding(teacher, old):
                for patterns in _stages(family):
                    repairs += _repair_stage(sides[0], sides[1], family, patterns, (old, new), cut)
                sides[0].advance(family, old)
            sides[1].advance(family, new)
            next_layer = old + 1
            bar.advance()
    return repairs


@dataclass(frozen=True)
class _Cut:
    """From the teacher's activations to those that the student should have."""

    family: Family
    sizes: Mapping[str, int]
    keep: Mapping[str, Tensor]
    basis: Tensor | None

    def outputs(self, x: Tensor, pattern: str, layer: int) -> Tensor:
        """Cut the outputs of a matrix as its rows were cut."""
        expr = self.family.tensors[pattern]
        if parse(expr)[0] == _HIDDEN:
            return self.stream(x)
        keep = {axis: indices for axis, indices in self.keep.items() if axis not in ("layer", "hidden")}
        return x[..., kept_per_dim(expr, self.sizes, keep, layer)[0].to(x.device)]

    def stream(self, x: Tensor) -> Tensor:
        """Cut, or rotate and cut, the hidden stream."""
        if "hidden" not in self.keep:
            return x
        if self.basis is None:
            return x[..., self.keep["hidden"].to(x.device)]
        return x @ self.basis[:, self.keep["hidden"]].to(x)


def _stages(family: Family) -> list[list[str]]:
    """The patterns of the linear weights of a layer, those together that are computed side by side."""
    stages: dict[tuple[bool, bool], list[str]] = {}
    for pattern in family.linears:
        expr = family.tensors[pattern]
        dims = parse(expr)
        if len(dims) == 2:
            stages.setdefault(("kv" not in axes_of(expr), dims[0] == _HIDDEN), []).append(pattern)
    return [stages[key] for key in sorted(stages)]


def _repair_stage(
    teacher: _Side,
    student: _Side,
    family: Family,
    patterns: Sequence[str],
    layers: tuple[int, int],
    cut: _Cut,
) -> list[Repair]:
    """Refit matrices that are computed side by side; `layers` numbers theirs in teacher and student."""
    old, new = layers
    names = [pattern.removesuffix(".weight") for pattern in patterns]
    expr = family.tensors[patterns[0]]
    writes, in_mlp = parse(expr)[0] == _HIDDEN, "kv" not in axes_of(expr)
    linears = [student.model.get_submodule(name.format(layer=new)) for name in names]
    moments = [(Moments(linear), Moments(linear)) for linear in linears if isinstance(linear, nn.Linear)]
    assert len(moments) == len(linears), names
    middle = family.sites.norms[1]  # its input is the stream between attention and MLP
    gain: float | None = None
    if writes:
        found_gain = _heard_gain(teacher, family, old, names[0], middle, in_mlp) if student.states else None
        gain = processes.gather(found_gain)[0]  # the first process always has rows
    for batch in range(len(student.states)):
        between = [middle] if writes else []
        wanted, _ = teacher.hear(family, old, batch, inputs=between, outputs=names)
        inputs, _ = student.hear(family, new, batch, inputs=[*names, *(between if in_mlp else [])])
        drift: Tensor | float = 0.0
        if gain is not None:
            device = student.model.device
            before = (wanted[middle] if in_mlp else teacher.states[batch]).to(device)
            found = (inputs[middle] if in_mlp else student.states[batch]).to(device)
            drift = (cut.stream(before.float()) - found) / gain
        for pattern, name, pair in zip(patterns, names, moments, strict=True):
            target = cut.outputs(wanted[name].float(), pattern, old) + drift
            is_checked = (student.first_batch + batch) % _CHECK_EVERY == 1
            pair[is_checked].add(inputs[name].flatten(0, -2), target.flatten(0, -2))
    repairs = []
    for name, linear, (fitted, checked) in zip(names, linears, moments, strict=True):
        fitted.add_up()
        checked.add_up()
        both = fitted + checked
        ridge, change = solve(fitted, checked)
        repairs.append(Repair(name.format(layer=new), ridge, both.error(), both.error(change)))
        assert isinstance(linear, nn.Linear)
        apply(linear, change)
    return repairs


def _heard_gain(
    teacher: _Side, family: Family, layer: int, name: str, middle: str, in_mlp: bool
) -> float | None:
    """`_gain` of the first batch, for the module `name` of a layer."""
    heard, behind = teacher.hear(family, layer, 0, inputs=[middle], outputs=[name], whole=in_mlp)
    if behind is None:
        return _gain(teacher.states[0].to(heard[name].device), heard[middle], heard[name])
    return _gain(heard[middle], behind, heard[name])


def _gain(before: Tensor, after: Tensor, written: Tensor) -> float | None:
    """The g of after = before + g * written; None where the model does something else with what is written.

    Families with a norm behind the matrix, or with attention and MLP in parallel, do.
    """
    grown = (after - before).double()
    gain = (grown * written.double()).sum() / written.double().square().sum()
    error = (grown - gain * written.double()).square().sum() / grown.square().sum()
    return float(gain) if error < _ADDED**2 else None


def _begin(model: PreTrainedModel, family: Family, rows: Rows, num_batches: int, batch_rows: int) -> _Side:
    """Hear what the model gives its layers: the first one's input, and everything beside it for each.

    Rows are this process's part.
    """
    mine = processes.my_part(num_batches)
    states: list[Tensor] = []
    calls: dict[int, dict[str, Any]] = {}

    def hear(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer == 0:
                states.append(args[0].to("cpu"))
            # Of equal batches of whole rows, so the same for all of them.
            if layer in calls:
                raise _HeardEnoughError
            calls[layer] = kwargs

        return hook

    num_layers = family.axis_sizes(model.config)["layer"]
    blocks = [model.get_submodule(family.sites.block.format(layer=i)) for i in range(num_layers)]
    handles = [b.register_forward_pre_hook(hear(i), with_kwargs=True) for i, b in enumerate(blocks)]
    try:
        for batch in mine or range(1):  # without rows too, what goes with all of them is heard
            ids = rows.take(batch * batch_rows, batch_rows)["inputs"].to(model.device)
            with suppress(_HeardEnoughError):
                model.get_decoder()(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return _Side(model, mine.start, states[: len(mine)], [calls[layer] for layer in range(num_layers)])
