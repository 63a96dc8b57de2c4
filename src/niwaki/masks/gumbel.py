"""Masks that can be trained: a logit for each candidate of each group, sampled with Gumbel noise.

In training every use of a masked weight W is W * M, with M = y S, y = softmax((kappa * pi + g) / tau) over
the candidates of a group, and g = -log(-log U) drawn anew (maskllm 2.2). In evaluation it is W * S[argmax
pi], always. Only pi is trained.

The noise comes from PyTorch's own generator, which activation checkpointing restores for its second forward
pass and `ground.loop.fit` seeds before each micro-batch; so nothing of it needs to be kept, and a resumed run
draws the same. `torch.nn.utils.parametrize` puts the mask in front of the weight, whatever module holds it.

Logits lie as [C, G]: a softmax over six neighbours is several times slower than one over six rows.

Shapes: C candidates, M weights of a group, G groups of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import owner

_SMALLEST = torch.finfo(torch.float32).tiny
# A candidate this far behind the best has a share of 1e-13. When samples are sharp most would be far lower
# still, and with the denormal numbers of their gradients and moments processors are ten times slower.
_LEAST_SCORE = -30.0


@dataclass
class Temperature:
    """kappa and tau, shared by all gates of a model; what trains them sets both before each step."""

    kappa: float
    tau: float


class _SoftlyMasked(torch.autograd.Function):
    """W * M and ||W * M||^2 for logits [C, G]; of the sampling only the softmax is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_CG: Tensor,
        weight: Tensor,
        candidates_CM: Tensor,
        kappa: float,
        tau: float,
        hard: bool,
    ) -> tuple[Tensor, Tensor]:
        noise_CG = torch.empty_like(logits_CG, dtype=torch.float32).uniform_()
        noise_CG.clamp_(min=_SMALLEST).log_().neg_().clamp_(min=_SMALLEST).log_().neg_()
        scores_CG = noise_CG.add_(logits_CG, alpha=kappa).div_(tau)
        scores_CG.sub_(scores_CG.amax(0)).clamp_(min=_LEAST_SCORE)
        y_CG = torch.softmax(scores_CG, 0)
        ctx.slope, ctx.dtype = kappa / tau, logits_CG.dtype
        used_CG = torch.zeros_like(y_CG).scatter_(0, y_CG.argmax(0, keepdim=True), 1.0) if hard else y_CG
        mask = (candidates_CM.T @ used_CG).T.reshape(weight.shape)
        masked = weight * mask.to(weight.dtype)
        ctx.save_for_backward(y_CG, weight, candidates_CM, masked)
        flat = masked.flatten().float()
        return masked, flat.dot(flat)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y_CG, weight, candidates_CM, masked = ctx.saved_tensors
        by_masked, by_norm = grads
        by_mask = torch.addcmul(by_masked, masked, (2 * by_norm).to(masked.dtype)).mul_(weight)
        by_y_CG = candidates_CM @ by_mask.view(-1, candidates_CM.shape[1]).T.to(y_CG.dtype)
        by_y_CG.sub_((y_CG * by_y_CG).sum(0)).mul_(y_CG).mul_(ctx.slope)
        return by_y_CG.to(ctx.dtype), None, None, None, None, None


class Gate(nn.Module):
    """The trainable mask of one weight.

    Args:
        shape: of the weight.
        temperature: shared; read in each forward pass.
        init_std: of the normal distribution that the logits start from.
        hard: sample one candidate in the forward pass and send the gradient through the soft one.
        generator: draws the start; on the processor, so that it is the same on every device.
        dtype: of the logits; softmax and noise are float32.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        pattern: Pattern,
        temperature: Temperature,
        *,
        init_std: float = 0.01,
        hard: bool = False,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.shape, self.pattern, self.temperature, self.hard = shape, pattern, temperature, hard
        start_CG = torch.randn(pattern.num_candidates, pattern.num_groups(shape), generator=generator)
        self.logits = nn.Parameter((start_CG * init_std).to(dtype))
        self.candidates: Tensor
        self.register_buffer("candidates", pattern.candidates_CM.float(), persistent=False)
        self.is_open = False
        self.penalties: list[Tensor] | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the model sees it; `penalties`, where it is a list, gets its squared norm."""
        if self.is_open:
            return weight
        if not self.training:
            return weight * self.mask()
        temperature = self.temperature
        masked, squared_norm = _SoftlyMasked.apply(
            self.logits, weight, self.candidates, temperature.kappa, temperature.tau, self.hard
        )
        if self.penalties is not None:
            self.penalties.append(squared_norm)
        return masked

    @torch.no_grad()
    def numbers(self) -> Tensor:
        """The candidate of largest logit for each group, uint8 [G]."""
        best_G = self.logits[0].clone()
        numbers_G = torch.zeros(best_G.shape, dtype=torch.uint8, device=best_G.device)
        for number in range(1, len(self.logits)):
            numbers_G[self.logits[number] > best_G] = number
            torch.maximum(best_G, self.logits[number], out=best_G)
        return numbers_G

    def mask(self) -> Tensor:
        """The mask of `numbers`, bool of the weight's shape."""
        return self.pattern.mask(self.numbers(), self.shape)

    @torch.no_grad()
    def lean_to(self, prior_G: Tensor, strength: float) -> None:
        """Raise the logits of candidates near a mask's (maskllm 2.4): pi += std(pi) * strength * similarity.

        The similarity of two candidates is how many kept places they share, less the mean N * N / M over all
        candidates. The deviation is this weight's, before anything is added.
        """
        rows_CM = self.candidates
        similarity_CC = rows_CM @ rows_CM.T - self.pattern.mean_overlap
        scale = float(self.logits.float().std()) * strength
        self.logits.add_((scale * similarity_CC)[:, prior_G.to(rows_CM.device).long()])


def install(model: nn.Module, gates: Mapping[str, Gate]) -> None:
    """Freeze the model and put gates in front of its weights: tensor name -> gate."""
    model.requires_grad_(False)
    for name, gate in gates.items():
        module, own = owner(model, name)
        device = module.get_parameter(own).device
        # Registering would run the gate once to compare shapes; a product keeps them.
        parametrize.register_parametrization(module, own, gate.to(device), unsafe=True)


def remove(model: nn.Module, gates: Mapping[str, Gate]) -> None:
    """Take the gates away; the weights are what they were."""
    for name, gate in gates.items():
        module, own = owner(model, name)
        gate.is_open = True
        parametrize.remove_parametrizations(module, own, leave_parametrized=False)
        gate.is_open = False


@contextmanager
def opened(gates: Mapping[str, Gate]) -> Iterator[None]:
    """While the block runs, the model is the dense one."""
    for gate in gates.values():
        gate.is_open = True
    try:
        yield
    finally:
        for gate in gates.values():
            gate.is_open = False


@contextmanager
def squared_norms(gates: Mapping[str, Gate]) -> Iterator[list[Tensor]]:
    """A list that gets ||W * M||^2 of each use of a masked weight in a training forward pass of the block.

    A second forward pass, of activation checkpointing, comes after the block and adds nothing.
    """
    found: list[Tensor] = []
    for gate in gates.values():
        gate.penalties = found
    try:
        yield found
    finally:
        for gate in gates.values():
            gate.penalties = None
