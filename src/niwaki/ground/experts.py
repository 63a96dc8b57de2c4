"""Run the fused experts of a layer one after the other, and let a listener hear each.

`transformers` holds the experts of a layer in one module and may compute them all in one grouped product,
which no hook sees into. For the time of listening that module runs here instead, in the order and with the
products of its own `eager` implementation, so that its output is the same to the bit.

Shape suffixes: N tokens of a batch, K experts per token, T tokens of one expert, d hidden, F neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

_NAME = "niwaki_heard"

Listener = Callable[[int, Tensor, Tensor, Tensor, Tensor], None]
"""(expert, token_T, input of the second matrix [T, F], output [T, d], router weight [T]) -> None."""


@contextmanager
def heard_experts(model: PreTrainedModel, listeners: Mapping[nn.Module, Listener]) -> Iterator[None]:
    """Have the experts modules of `model` in `listeners` tell what each expert computes, while this lasts."""
    config: Any = next(iter(listeners)).config
    before = config._experts_implementation
    ALL_EXPERTS_FUNCTIONS[_NAME] = partial(_run, listeners)
    config._experts_implementation = _NAME
    try:
        yield
    finally:
        config._experts_implementation = before
        del ALL_EXPERTS_FUNCTIONS[_NAME]


def _run(
    listeners: Mapping[nn.Module, Listener], experts: Any, x_Nd: Tensor, index_NK: Tensor, weight_NK: Tensor
) -> Tensor:
    out_Nd = torch.zeros_like(x_Nd)
    for expert in range(experts.num_experts):
        slot_T, token_T = index_NK.T.eq(expert).nonzero(as_tuple=True)
        if len(token_T) == 0:
            continue
        gate_up = F.linear(x_Nd[token_T], experts.gate_up_proj[expert])
        neurons_TF = experts._apply_gate(gate_up)
        y_Td = F.linear(neurons_TF, experts.down_proj[expert])
        weight_T = weight_NK[token_T, slot_T]
        listeners[experts](expert, token_T, neurons_TF, y_Td, weight_T)
        out_Nd.index_add_(0, token_T, (y_Td * weight_T[:, None]).to(out_Nd.dtype))
    return out_Nd
