"""Tiny models of every family, with sizes chosen so that two axes are rarely equally long."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from niwaki.ground.family import FAMILIES, family_of

NUM_LAYERS = 4
PROMPT = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(7))

BASE = {
    "vocab_size": 90,
    "hidden_size": 60,
    "intermediate_size": 56,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# hidden = heads * head size, which these configs do not name.
WITHOUT_HEAD_DIM = BASE | {"hidden_size": 48, "head_dim": None}
MIXED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
WINDOWS = {"sliding_window": 4, "layer_types": MIXED}
QWEN_WINDOWS = WINDOWS | {"use_sliding_window": True}
SPECIAL = {
    "phi3": WITHOUT_HEAD_DIM,
    "gpt_neox": WITHOUT_HEAD_DIM,
    "qwen2": QWEN_WINDOWS,
    "qwen3": QWEN_WINDOWS,
    "gemma2": WINDOWS,
    "gemma3_text": WINDOWS,
    "olmo3": WINDOWS,
    "smollm3": QWEN_WINDOWS | {"no_rope_layers": [1, 0, 1, 0]},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 20},
    "qwen3_moe": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
}
WITH_BIASES = {"attention_bias": True, "mlp_bias": True}
OPTIONAL_BIASES = [
    name for name, family in FAMILIES.items() if any(" if " in line for line in family.tensors.values())
]


class PromptRows:
    """The rows of `PROMPT`; every token counts."""

    def take(self, start, count):
        rows = PROMPT[start : start + count]
        return {"inputs": rows, "mask": torch.ones_like(rows, dtype=torch.bool)}


def tiny_config(model_type, **changes):
    fields = BASE | SPECIAL.get(model_type, {}) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    return AutoConfig.for_model(model_type, **fields)


def tiny_model(config, seed=0):
    """A model in which every tensor matters: no bias or norm is left at its trivial start."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.3 * noise if parameter.ndim == 1 else 0.2 * noise)
    return model


def logits(model):
    with torch.no_grad():
        return model(PROMPT).logits


def trimmed(family, config, state, keep):
    """The model that `keep` leaves of `state`."""
    sizes = family.axis_sizes(config)
    new = sizes | {axis: kept.shape[-1] for axis, kept in keep.items()}
    resized = family.resize(config, new, keep)
    model = AutoModelForCausalLM.from_config(resized, attn_implementation="eager").eval()
    taken = [family.take(name, tensor, sizes, keep) for name, tensor in state.items()]
    model.load_state_dict(dict(cut for cut in taken if cut is not None))
    return model


def axis_shape(axis, sizes):
    """The shape of keep[axis], without its last entry."""
    lead = {
        "hidden": [],
        "layer": [],
        "group": [sizes["layer"], sizes["kv"]],
        "effn": [sizes["layer"], sizes.get("expert", 1)],
    }
    return lead.get(axis, [sizes["layer"]])


def permutation(axis, sizes, generator):
    """A different order in every layer (and key-value head, and expert)."""
    n = sizes[axis]
    rows = [torch.randperm(n - 1, generator=generator) + 1 for _ in range(_rows(axis, sizes))]
    # Entry 0 always moves, so no row is the identity.
    orders = [torch.cat([row[:1], torch.tensor([0]), row[1:]]) for row in rows]
    return torch.stack(orders).reshape([*axis_shape(axis, sizes), n])


def subset(axis, size, sizes, generator):
    """An ascending choice of `size` entries, another one in every layer (and key-value head, and expert)."""
    n = sizes[axis]
    rows = [torch.randperm(n, generator=generator)[:size].sort().values for _ in range(_rows(axis, sizes))]
    return torch.stack(rows).reshape([*axis_shape(axis, sizes), size])


def smaller(family, sizes):
    """A legal smaller size on every axis that the family can trim."""
    new = {"layer": 3, "hidden": 32, "ffn": 40, "kv": 2, "group": 1, "expert": 4, "effn": 16}
    new = {axis: new[axis] for axis in family.axes}
    if family.hidden_is_heads:
        new["hidden"] = 2 * new.get("group", 1) * sizes["dim"]
    return new


def _rows(axis, sizes):
    return torch.Size(axis_shape(axis, sizes)).numel()


def tiny(model_type, **changes):
    config = tiny_config(model_type, **changes)
    return family_of(config), config, tiny_model(config)
