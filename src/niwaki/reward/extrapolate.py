"""ExPO: a step past the trained weights in the direction they moved (arXiv 2410.01257, section 4).

theta(a) = theta_start + a (theta_trained - theta_start); a = 0 is the start, a = 1 the trained model, the
paper took a = 1.52. It acts on every weight, head included, in float32: in bfloat16 the small difference is
lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from niwaki.errors import CheckpointError
from niwaki.ground.progress import progress

GRID = (0.0, 0.5, 0.75, 1.0, 1.1, 1.25, 1.52, 1.75, 2.0, 2.5, 3.0, 4.0)


@dataclass(frozen=True)
class Point:
    """How a model at `a` does on validation pairs."""

    a: float
    accuracy: float
    loss: float


def extrapolate(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], a: float) -> dict[str, Tensor]:
    """theta(a) of two state dicts, computed in float32, in the dtype of `trained`.

    Raises:
        CheckpointError: they are not of one model.
    """
    if start.keys() != trained.keys() or any(start[n].shape != trained[n].shape for n in start):
        different = sorted(start.keys() ^ trained.keys()) or [
            n for n in start if start[n].shape != trained[n].shape
        ]
        raise CheckpointError(
            f"The two models differ in {different[0]!r}.",
            "ExPO needs a model and the one that it was trained from, with the same labels.",
        )
    found = {}
    for name, end in trained.items():
        if not end.is_floating_point():
            found[name] = end
            continue
        begin = start[name].float()
        found[name] = (begin + a * (end.float() - begin)).to(end.dtype)
    return found


def sweep(
    model: nn.Module,
    start: Mapping[str, Tensor],
    measure: Callable[[nn.Module], tuple[float, float]],
    *,
    grid: Sequence[float] = GRID,
) -> dict[str, Any]:
    """Try every a of the grid on validation pairs, and leave the best in `model`.

    Args:
        model: the trained model.
        start: the weights that it was trained from.
        measure: a model -> its accuracy and its loss on validation pairs. The highest accuracy wins, among
            equals the lowest loss.

    Returns:
        `a`, and the whole `curve`.
    """
    trained = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    curve = []
    with progress("extrapolation", total=len(grid)) as bar:
        for a in grid:
            model.load_state_dict(extrapolate(start, trained, a))
            accuracy, loss = measure(model)
            curve.append(Point(a, accuracy, loss))
            bar.advance(f"a {a:g}: accuracy {accuracy:.3f}")
    best = max(curve, key=lambda point: (point.accuracy, -point.loss))
    with torch.no_grad():
        model.load_state_dict(extrapolate(start, trained, best.a))
    return {"a": best.a, "curve": [asdict(point) for point in curve]}
