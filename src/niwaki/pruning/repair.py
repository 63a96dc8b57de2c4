"""Closed-form repair: refit what writes to the hidden stream, so that a trimmed model adds what its teacher adds.

The matrices at the end of attention and MLP are linear, so the best ones on calibration rows are a least
squares problem each. Teacher and student run side by side, one layer at a time, over all rows: X, the input of
the matrix in the student with every earlier matrix repaired already; Y, what the stream should gain there.
The sums X^T X and X^T (Y - X W) in float64 are all that is kept of a layer.

The ridge pulls towards the matrix as it was, not towards zero, so that directions which the rows say nothing
about stay as trimmed. Its strength, from a small grid, is the one that serves rows best which it was not
fitted on; when none does, the matrix stays.

Shapes: N tokens, F inputs and d outputs of a matrix (with a bias, one more input that is always one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.errors import FamilyError
from niwaki.ground.axes import axes_of, parse
from niwaki.ground.family import Family, family_of
from niwaki.ground.progress import progress

# Relative to the mean of the diagonal of X^T X.
RIDGES = (1e-8, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_CHECK_SHARE = 4  # one batch in so many is not fitted on while the ridge is chosen
_HIDDEN = (("hidden",),)


class Rows(Protocol):
    """A calibration set whose rows are samples."""

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        """Rows from `start`: "inputs" [count, S] int64 and "mask" [count, S] bool, True at valid tokens."""
        ...


@dataclass(frozen=True)
class Refit:
    """What became of one matrix.

    Attributes:
        name: of the matrix in the student.
        ridge: the one chosen, relative; None when the matrix stayed as it was.
        error_before, error_after: mean over tokens of |Y - X W|^2 / |Y|^2 on all rows.
    """

    name: str
    ridge: float | None
    error_before: float
    error_after: float


class Moments:
    """Sums over tokens: X^T X, X^T R and |R|^2 with R = Y - X W, and |Y|^2; float64."""

    def __init__(self, num_inputs: int, num_outputs: int, device: torch.device) -> None:
        options: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.xx_FF = torch.zeros(num_inputs, num_inputs, **options)
        self.xr_Fd = torch.zeros(num_inputs, num_outputs, **options)
        self.rr = torch.zeros((), **options)
        self.yy = torch.zeros((), **options)

    def add(self, x_NF: Tensor, y_Nd: Tensor, weight_dF: Tensor) -> None:
        """Add tokens; the matrix is `weight_dF` as `nn.Linear` holds it."""
        x_NF, y_Nd = x_NF.double(), y_Nd.double()
        r_Nd = y_Nd - x_NF @ weight_dF.double().T
        self.xx_FF.addmm_(x_NF.T, x_NF)
        self.xr_Fd.addmm_(x_NF.T, r_Nd)
        self.rr += r_Nd.square().sum()
        self.yy += y_Nd.square().sum()

    def plus(self, other: Moments) -> Moments:
        """The sums over both."""
        both = Moments(*self.xr_Fd.shape, self.rr.device)
        for name, value in vars(self).items():
            setattr(both, name, value + getattr(other, name))
        return both

    def error(self, change_Fd: Tensor | None = None) -> float:
        """|R - X D|^2 for a change D of W^T; of the matrix as it is without one."""
        if change_Fd is None:
            return float(self.rr)
        quadratic = (change_Fd * (self.xx_FF @ change_Fd - 2 * self.xr_Fd)).sum()
        return max(0.0, float(self.rr + quadratic))

    def change(self, ridge: float) -> Tensor:
        """The D [F, d] of least |R - X D|^2 + ridge * mean(diag(X^T X)) * |D|^2."""
        scale = self.xx_FF.diagonal().mean()
        shifted = self.xx_FF + ridge * scale * torch.eye(
            len(self.xx_FF), dtype=scale.dtype, device=scale.device
        )
        return torch.linalg.solve(shifted, self.xr_Fd)


def solve(fitted: Moments, checked: Moments, ridges: Sequence[float] = RIDGES) -> tuple[float | None, Tensor]:
    """The ridge that serves `checked` best when fitted on `fitted`, and the change of W^T fitted on both.

    Returns (None, zeros) when no ridge makes `checked` better than the matrix as it is.
    """
    both = fitted.plus(checked)
    nothing = torch.zeros_like(both.xr_Fd)
    if not bool(fitted.xx_FF.diagonal().any()):
        return None, nothing
    errors = {ridge: checked.error(fitted.change(ridge)) for ridge in ridges}
    best = min(errors, key=lambda ridge: errors[ridge])
    if errors[best] >= checked.error():
        return None, nothing
    return best, both.change(best)


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
    drift: float = 1.0,
) -> list[Refit]:
    """Refit every matrix of the student that writes to the hidden stream, in place, layer by layer."""
    family = family_of(student.config)
    batches = [rows.take(i, batch_rows) for i in range(0, num_samples // batch_rows * batch_rows, batch_rows)]
    into = _projection(keep, basis)
    layers = keep.get("layer", torch.arange(family.axis_sizes(teacher.config)["layer"])).tolist()
    teacher_states, teacher_calls = _begin(teacher, family, batches)
    student_states, student_calls = _begin(student, family, batches)
    refits: list[Refit] = []
    at = 0
    with progress("repair", total=len(layers)) as bar:
        for number, original in enumerate(layers):
            for layer in range(at, original):
                block = teacher.get_submodule(family.sites.block.format(layer=layer))
                teacher_states = [_run(block, teacher_calls[layer], s) for s in teacher_states]
            at = original + 1
            t_block = teacher.get_submodule(family.sites.block.format(layer=original))
            s_block = student.get_submodule(family.sites.block.format(layer=number))
            wanted, streams = [], []
            names = _writers(family)
            after = []
            for state in teacher_states:
                with ExitStack() as stack:
                    outs = [
                        stack.enter_context(_heard(teacher, n.format(layer=original), "out")) for n in names
                    ]
                    mid = stack.enter_context(
                        _heard(teacher, family.sites.norms[1].format(layer=original), "in")
                    )
                    after.append(_run(t_block, teacher_calls[original], state))
                wanted.append([into(o[0]) for o in outs])
                streams.append([into(state), into(mid[0])])
            teacher_states = after
            for w, name in enumerate(names):
                name = name.format(layer=number)
                linear = student.get_submodule(name)
                moments = [
                    Moments(linear.in_features, linear.out_features, linear.weight.device) for _ in range(2)
                ]
                for b, state in enumerate(student_states):
                    with (
                        _heard(student, name, "in") as x,
                        _heard(student, family.sites.norms[1].format(layer=number), "in") as mid,
                    ):
                        _run(s_block, student_calls[number], state)
                    y = wanted[b][w] + drift * (streams[b][w] - [state, mid[0]][w])
                    mask = batches[b]["mask"]
                    moments[b % _CHECK_SHARE == 0].add(x[0][mask], y[mask], linear.weight)
                ridge, change = solve(*moments)
                both = moments[0].plus(moments[1])
                refits.append(
                    Refit(name, ridge, both.error() / float(both.yy), both.error(change) / float(both.yy))
                )
                linear.weight.add_(change.T.to(linear.weight.dtype))
            student_states = [_run(s_block, student_calls[number], s) for s in student_states]
            bar.advance()
    return refits


def _projection(keep, basis):
    if basis is not None:
        n = len(keep["hidden"])
        return lambda x: x @ basis[:, :n].to(x.dtype)
    if "hidden" in keep:
        return lambda x: x[..., keep["hidden"]]
    return lambda x: x


def _writers(family):
    found = [
        p
        for p in family.linears
        if parse(family.tensors[p])[0] == _HIDDEN and len(parse(family.tensors[p])) == 2
    ]
    return [
        p.removesuffix(".weight") for p in sorted(found, key=lambda p: "kv" not in axes_of(family.tensors[p]))
    ]


def _run(block, call, state):
    out = block(state, **call)
    return out if isinstance(out, Tensor) else out[0]


@contextmanager
def _heard(model, name, side):
    got = []
    module = model.get_submodule(name)
    if side == "in":
        h = module.register_forward_pre_hook(lambda m, a: got.append(a[0]))
    else:
        h = module.register_forward_hook(lambda m, a, o: got.append(o))
    try:
        yield got
    finally:
        h.remove()


def _begin(model, family, batches):
    layers = range(family.axis_sizes(model.config)["layer"])
    states, calls = [], {}
    model.eval()

    def hear(layer):
        def hook(m, args, kwargs):
            if layer == 0:
                states.append(args[0])
            calls[layer] = kwargs

        return hook

    hs = [
        model.get_submodule(family.sites.block.format(layer=l)).register_forward_pre_hook(
            hear(l), with_kwargs=True
        )
        for l in layers
    ]
    for b in batches:
        model.get_decoder()(input_ids=b["inputs"], use_cache=False)
    for h in hs:
        h.remove()
    return states, calls
