"""Learn which N of every M weights survive (MaskLLM, arXiv 2409.17481): the weights stay, the masks train.

In: a dense model, a mask to start from, rows of text and a loss. Out: the mask that the loss likes best, and
what `ground.loop.fit` writes. The loss is handed in: the language-model loss of the paper, or the
distance from the dense model.

The objective is E_g[loss] - lambda * sum ||W * M||^2 with the soft masks M of the same forward pass (maskllm
2.3). lambda fades to zero over the training unless told otherwise; the paper's formula keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.ground.loop import FitResult, Loss, RowSource, fit
from niwaki.ground.stream import Batch
from niwaki.masks.gumbel import Gate, Temperature, install, opened, remove, squared_norms
from niwaki.masks.patterns import Pattern
from niwaki.masks.schedule import fading, linear
from niwaki.masks.tensors import check_covers, maskable

KAPPA, TAU = (100.0, 500.0), (4.0, 0.05)


@dataclass(frozen=True)
class Learned:
    """The masks, tensor name -> candidate numbers [G], and how the training ended."""

    masks: dict[str, Tensor]
    fit: FitResult


@dataclass
class Masked:
    """A model whose masks are trained, for losses that also want to see it dense."""

    model: PreTrainedModel
    gates: Mapping[str, Gate]

    def dense(self) -> Any:
        """A context in which the model is the dense one, with the weights that are masked outside it."""
        return opened(self.gates)


def learn_masks(
    model: PreTrainedModel,
    rows: RowSource,
    loss: Callable[[Masked], Loss],
    *,
    out: Path,
    pattern: Pattern,
    prior: Mapping[str, Tensor] | None,
    dense: Sequence[str] = (),
    prior_strength: float = 3.0,
    init_std: float = 0.01,
    kappa: tuple[float, float] = KAPPA,
    tau: tuple[float, float] = TAU,
    hard: bool = False,
    regularization: float = 1e-5,
    reg_decay: bool = True,
    gate_dtype: torch.dtype = torch.float32,
    num_steps: int,
    seed: int = 0,
    **options: Any,
) -> Learned:
    """Train masks for `model`, whose weights come back as they were, frozen.

    Args:
        loss: makes the loss of `fit` for the masked model, such as `lambda masked: next_token_loss`.
        prior: tensor name -> candidate numbers [G] to start from; None starts from noise alone.
        dense: tensors and layers to leave alone; see `tensors.maskable`.
        prior_strength: alpha of maskllm 2.4.
        kappa, tau: first and last values, moved linearly.
        regularization: lambda at the start; with `reg_decay` it fades to zero.
        gate_dtype: of the logits; bfloat16 wants an optimiser that rounds stochastically.
        options: the other keyword arguments of `fit`; its `held_out` is measured with the argmax mask.

    Raises:
        RecipeError: widths that the pattern does not divide, a prior of other tensors.
        TrainingError: see `fit`.
    """
    shapes = maskable(model.config, pattern, dense)
    if prior is not None:
        check_covers(prior, shapes, "prior")
    temperature = Temperature(kappa[0], tau[0])
    generator = torch.Generator().manual_seed(seed)
    gates: dict[str, Gate] = {}
    for name, shape in shapes.items():
        gates[name] = Gate(
            shape,
            pattern,
            temperature,
            init_std=init_std,
            hard=hard,
            generator=generator,
            dtype=gate_dtype,
        )
        if prior is not None:
            gates[name].lean_to(prior[name], prior_strength)
    weight = [regularization]

    def before_step(step: int) -> None:
        temperature.kappa = linear(*kappa, step, num_steps)
        temperature.tau = linear(*tau, step, num_steps)
        weight[0] = fading(regularization, step, num_steps) if reg_decay else regularization

    install(model, gates)
    try:
        inner = loss(Masked(model, gates))
        ended = fit(
            model,
            rows,
            _with_norms(inner, gates, weight),
            out=out,
            num_steps=num_steps,
            seed=seed,
            before_step=before_step,
            **{"label": "masks", **options},
        )
        masks = {name: gate.numbers().cpu() for name, gate in gates.items()}
    finally:
        remove(model, gates)
    return Learned(masks, ended)


def _with_norms(inner: Loss, gates: Mapping[str, Gate], weight: Sequence[float]) -> Loss:
    """The loss with the regulariser, which counts once per micro-batch as if it were each target's."""

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        with squared_norms(gates) as norms:
            total, metrics = inner(model, batch)
        if not norms:
            return total, metrics
        squared_norm = torch.stack([norm.to(total.device) for norm in norms]).sum()
        num_targets = batch["mask"].sum()
        found = {**metrics, "squared_norm": squared_norm.detach() * num_targets}
        return total - weight[0] * squared_norm * num_targets, found

    return loss
