"""A causal language model seen as two parts: a backbone that ends in hidden states, and a linear head.

In: any `transformers` causal language model. Out: its backbone and a `Head`, which says how hidden states
become logits. Losses that never hold all logits are written against these two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from niwaki.errors import CheckpointError
from niwaki.ground.spread import running


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (hidden @ weight.T + bias)), where cap(x) = softcap * tanh(x / softcap).

    Args:
        weight: [V, D]; the embedding itself where the model ties them.
        bias: [V], or None.
        scale: 1 / `logits_scaling` (Granite) or `logit_scale` (Cohere).
        softcap: `final_logit_softcapping` (Gemma 2), or None for no cap.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., V] logits of [.., D] hidden states, all held at once."""
        return self.finish(F.linear(hidden, self.weight, self.bias))

    def finish(self, product: Tensor) -> Tensor:
        """Logits from the output of the linear map, of any shape; the same tensor where nothing is to do."""
        if self.scale != 1.0:
            product = product * self.scale
        if self.softcap is not None:
            product = self.softcap * torch.tanh(product / self.softcap)
        return product


def split_head(model: PreTrainedModel) -> tuple[nn.Module, Head]:
    """Backbone and head of a causal language model. Shares its parameters and copies nothing.

    Raises:
        CheckpointError: there is no backbone apart from the head, or the head is not linear.
    """
    name = type(model).__name__
    backbone, linear = model.base_model, model.get_output_embeddings()
    if backbone is model or not isinstance(linear, nn.Linear):
        raise CheckpointError(
            f"{name}: expected a backbone and a linear output head, found {type(backbone).__name__} and "
            f"{type(linear).__name__}.",
            "Load the folder with `AutoModelForCausalLM`.",
        )
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return backbone, Head(linear.weight, linear.bias, float(scale), softcap)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose own logits are not those of `split_head`: families differ after the head.

    Runs the model on four tokens, so the cost is that of reading its weights once. Collective for one in
    parts.

    Raises:
        CheckpointError: the logits differ by more than rounding.
    """
    tokens = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    backbone, head = split_head(model)
    was_training = model.training
    model.eval()
    with running(model):
        expected = model(input_ids=tokens, use_cache=False).logits.double()
        found = head.logits(backbone(input_ids=tokens, use_cache=False).last_hidden_state).double()
    model.train(was_training)
    largest = expected.abs().max()
    difference = (found - expected).abs().max()
    if not difference <= 16 * torch.finfo(model.dtype).eps * largest:
        raise CheckpointError(
            f"{type(model).__name__}: logits are not its backbone and head alone (they differ by "
            f"{difference:.3g} of {largest:.3g}).",
            "Teach `split_head` in niwaki/ground/head.py what this family does to its logits.",
        )
