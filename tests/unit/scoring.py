"""What the tests of scores share: tiny models, rows of random tokens."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Rows:
    """All of one tensor, `inputs`; every token counts where there is no `mask`."""

    def __init__(self, inputs, mask=None, targets=None):
        self.inputs, self.targets = inputs, targets
        self.mask = torch.ones_like(inputs, dtype=torch.bool) if mask is None else mask

    def take(self, start, count):
        tensors = {"inputs": self.inputs, "mask": self.mask, "targets": self.targets}
        return {name: x[start : start + count] for name, x in tensors.items() if x is not None}


def build(model_type="llama", **changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **TINY | changes))


def tokens(num_rows=6, row_tokens=10):
    return torch.randint(3, 64, (num_rows, row_tokens), generator=torch.Generator().manual_seed(1))
