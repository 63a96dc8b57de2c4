"""Lines that many tables share."""

from __future__ import annotations

LAYER = "model.layers.{layer}."
ATTENTION = LAYER + "self_attn."
MLP = LAYER + "mlp."

SIZES = {
    "layer": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "kv": "num_key_value_heads",
    "vocab": "vocab_size",
}

ENDS = {
    "model.embed_tokens.weight": "vocab hidden",
    "model.norm.weight": "hidden",
    "lm_head.weight": "vocab hidden",
}

PROJECTIONS = {
    ATTENTION + "q_proj.weight": "(kv group dim) hidden",
    ATTENTION + "k_proj.weight": "(kv dim) hidden",
    ATTENTION + "v_proj.weight": "(kv dim) hidden",
    ATTENTION + "o_proj.weight": "hidden (kv group dim)",
}
QKV_BIASES = {
    ATTENTION + "q_proj.bias": "(kv group dim)",
    ATTENTION + "k_proj.bias": "(kv dim)",
    ATTENTION + "v_proj.bias": "(kv dim)",
}
HEAD_NORMS = {ATTENTION + "q_norm.weight": "dim", ATTENTION + "k_norm.weight": "dim"}
WIDE_NORMS = {ATTENTION + "q_norm.weight": "(kv group dim)", ATTENTION + "k_norm.weight": "(kv dim)"}

GATED_MLP = {
    MLP + "gate_proj.weight": "ffn hidden",
    MLP + "up_proj.weight": "ffn hidden",
    MLP + "down_proj.weight": "hidden ffn",
}
GATED_MLP_BIASES = {
    MLP + "gate_proj.bias": "ffn",
    MLP + "up_proj.bias": "ffn",
    MLP + "down_proj.bias": "hidden",
}

OUTPUT_BIAS = {ATTENTION + "o_proj.bias": "hidden"}


def norms(*names: str) -> dict[str, str]:
    """One weight over the hidden stream for each of these norms of a layer."""
    return {f"{LAYER}{name}.weight": "hidden" for name in names}


def with_biases(lines: dict[str, str]) -> dict[str, str]:
    """Add a bias beside every weight; it lies along the weight's first axis."""
    return lines | {
        name.removesuffix("weight") + "bias": expr for name, expr in lines.items() if name.endswith("weight")
    }


def only_if(condition: str, lines: dict[str, str]) -> dict[str, str]:
    """Lines that are there only when a config field is true."""
    return {name: f"{expr} if {condition}" for name, expr in lines.items()}


PRE_NORMS = norms("input_layernorm", "post_attention_layernorm")
FOUR_NORMS = PRE_NORMS | norms("pre_feedforward_layernorm", "post_feedforward_layernorm")
POST_NORMS = norms("post_attention_layernorm", "post_feedforward_layernorm")
ATTENTION_BIASES = only_if("attention_bias", QKV_BIASES | OUTPUT_BIAS)

LAYER_NORM = "its norms are LayerNorms, which subtract the mean over channels"
NORMS_AFTER = "it has norms after attention and MLP, whose weights belong to single channels"
