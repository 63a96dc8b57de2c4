"""AdamW with moments of one byte, and stochastic rounding where the weights themselves are bfloat16.

Moments are kept in blocks of 256 numbers that share a float32 scale (arXiv 2110.02861 has the idea). A
block may hold gradients of very different sizes, and what counts is the error of first / sqrt(second), so
the two are kept as: the fourth root of the second moment, linearly in a byte, which covers five decades of
its square root; and the first moment divided by that square root as it is kept, linearly in a signed byte,
so that its error is the same part of a step for every weight. Both are rounded stochastically: what is
smaller than a step is kept on average. 2.03 bytes per weight for both, instead of 8.

A bfloat16 weight is written with stochastic rounding too: rounded to the nearest, it would not move for an
update below 1/256 of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BLOCK = 256
BYTES_PER_MOMENT = 1 + 4 / BLOCK
_SIGNED, _UNSIGNED = 127, 255
_SMALLEST = torch.finfo(torch.float32).tiny


class AdamW8bit(torch.optim.Optimizer):
    """As `torch.optim.AdamW`, for weights in float32 or bfloat16.

    The noise of its rounding is drawn from a generator of its own, seeded by the step, so a resumed
    training draws the same.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of every optimiser, but each tensor keeps its dtype; torch gives them that of the weight."""
        super().load_state_dict(state_dict)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for weight, key in zip(weights, keys, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                place = "cpu" if name == "step" else weight.device
                self.state[weight][name] = value.detach().clone().to(place)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient."""
        result = None if closure is None else closure()
        place = 0
        for group in self.param_groups:
            for weight in group["params"]:
                place += 1
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    blocks = -(-weight.numel() // BLOCK)
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["first"] = torch.zeros(blocks, BLOCK, dtype=torch.int8, device=weight.device)
                    state["second"] = torch.zeros(blocks, BLOCK, dtype=torch.uint8, device=weight.device)
                    state["first_scale"] = torch.zeros(blocks, 1, device=weight.device)
                    state["second_scale"] = torch.zeros(blocks, 1, device=weight.device)
                state["step"] += 1
                noise = torch.Generator(weight.device).manual_seed(int(state["step"]) * 1_000_003 + place)
                _update(weight, state, group, noise)
        return result


def _update(weight: Tensor, state: dict[str, Tensor], group: dict[str, Any], noise: torch.Generator) -> None:
    beta1, beta2 = group["betas"]
    step = int(state["step"])
    assert weight.grad is not None
    grad = _in_blocks(weight.grad)
    root = _root(state)
    first = state["first"].float().mul_(state["first_scale"]).mul_(root).lerp_(grad, 1 - beta1)
    root = root.square_().mul_(beta2).addcmul_(grad, grad, value=1 - beta2).sqrt_()
    change = first / (root / (1 - beta2**step) ** 0.5 + group["eps"]) / (1 - beta1**step)
    _keep(first, root, state, noise)
    new = weight.float().mul_(1 - group["lr"] * group["weight_decay"])
    new.add_(change.flatten()[: weight.numel()].view_as(weight), alpha=-group["lr"])
    weight.copy_(_to_bfloat16(new, noise) if weight.dtype == torch.bfloat16 else new)


def _root(state: dict[str, Tensor]) -> Tensor:
    """The square root of the second moment, as it is kept."""
    return state["second"].float().div_(_UNSIGNED).square_().mul_(state["second_scale"])


def _keep(first: Tensor, root: Tensor, state: dict[str, Tensor], noise: torch.Generator) -> None:
    state["second_scale"].copy_(root.amax(1, keepdim=True))
    steps = (root / state["second_scale"].clamp_min(_SMALLEST)).sqrt_().mul_(_UNSIGNED)
    # A root that is not zero must not become it: updates are divided by it.
    rounded = _rounded(steps, noise).clamp_(0, _UNSIGNED).maximum((root > 0).float())
    state["second"].copy_(rounded)
    ratio = first.div_(_root(state).clamp_min(_SMALLEST))
    state["first_scale"].copy_(ratio.abs().amax(1, keepdim=True) / _SIGNED)
    steps = ratio.div_(state["first_scale"].clamp_min(_SMALLEST))
    state["first"].copy_(_rounded(steps, noise).clamp_(-_SIGNED, _SIGNED))


def _rounded(values: Tensor, noise: torch.Generator) -> Tensor:
    """Up or down, with the chances that keep the mean."""
    return values.add_(torch.rand(values.shape, generator=noise, device=values.device)).floor_()


def _in_blocks(tensor: Tensor) -> Tensor:
    flat = tensor.float().flatten()
    return torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)


def _to_bfloat16(values: Tensor, noise: torch.Generator) -> Tensor:
    """Round up or down with the chance that keeps the mean: add noise to the 16 bits that are cut off."""
    bits = values.contiguous().view(torch.int32)
    below = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, generator=noise, device=values.device)
    return (bits + below).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)
