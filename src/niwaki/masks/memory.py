"""What learning a mask needs in memory, before it starts (maskllm 2.8).

For every masked weight there are C / M logits (1.5 at 2:4), each with a gradient and two moments of the
optimiser: 24 bytes per weight in float32, 9 with bfloat16 gates and 8-bit moments. Beside them stand the
frozen weights, what the sampled masks keep for the backward pass, and the activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import Shapes

_FLOAT32 = 4


@dataclass(frozen=True)
class MaskMemory:
    """Bytes of each kind; `total` is what a training needs at once."""

    weights: int
    gates: int
    samples: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gates + self.samples + self.activations


def gate_bytes_per_weight(pattern: Pattern, *, gate_dtype: torch.dtype, moment_bytes: float) -> float:
    """Bytes of logits, gradients and two moments for each masked weight."""
    logit_bytes = 2 * gate_dtype.itemsize + 2 * moment_bytes
    return pattern.num_candidates / pattern.group * logit_bytes


def estimate(
    shapes: Shapes,
    pattern: Pattern,
    *,
    model_bytes: int,
    weight_bytes: int,
    activation_bytes: int,
    num_layers: int,
    checkpointing: bool,
    gate_dtype: torch.dtype = torch.float32,
    moment_bytes: float = _FLOAT32,
) -> MaskMemory:
    """Estimate the memory of one device that holds everything.

    Args:
        shapes: of the masked tensors.
        model_bytes: of all frozen weights; `weight_bytes` of one.
        activation_bytes: of a micro-batch without checkpointing.
        checkpointing: samples and activations are kept for one layer at a time only.
        moment_bytes: of one moment of one logit; 4 for AdamW, about 1 in 8 bits.
    """
    num_weights = sum(prod(shape) for shape in shapes.values())
    gates = num_weights * gate_bytes_per_weight(pattern, gate_dtype=gate_dtype, moment_bytes=moment_bytes)
    # The softmax in float32 and the masked weight.
    samples = num_weights * (pattern.num_candidates / pattern.group * _FLOAT32 + weight_bytes)
    at_once = num_layers if checkpointing else 1
    return MaskMemory(
        weights=model_bytes,
        gates=round(gates),
        samples=round(samples / at_once),
        activations=activation_bytes // at_once,
    )
