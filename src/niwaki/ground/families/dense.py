"""Families with one MLP per layer. Names follow `model.state_dict()` of transformers 5."""

from __future__ import annotations

from niwaki.ground.families.lines import (
    ATTENTION,
    ATTENTION_BIASES,
    ENDS,
    FOUR_NORMS,
    GATED_MLP,
    GATED_MLP_BIASES,
    HEAD_NORMS,
    LAYER_NORM,
    MLP,
    NORMS_AFTER,
    OUTPUT_BIAS,
    POST_NORMS,
    PRE_NORMS,
    PROJECTIONS,
    QKV_BIASES,
    SIZES,
    WIDE_NORMS,
    only_if,
    with_biases,
)
from niwaki.ground.table import Family

LLAMA = ENDS | PRE_NORMS | PROJECTIONS | GATED_MLP
LLAMA_BIASES = ATTENTION_BIASES | only_if("mlp_bias", GATED_MLP_BIASES)
LAYER_TYPES = ("layer_types",)

LLAMA_LIKE = (
    Family("llama", LLAMA | LLAMA_BIASES, SIZES, heads_divide_hidden=True),
    Family("mistral", LLAMA, SIZES),
    Family("granite", LLAMA | LLAMA_BIASES, SIZES),
    Family("smollm3", LLAMA | LLAMA_BIASES, SIZES, per_layer_fields=(*LAYER_TYPES, "no_rope_layers")),
    Family("qwen2", LLAMA | QKV_BIASES, SIZES, per_layer_fields=LAYER_TYPES),
    Family("qwen3", LLAMA | HEAD_NORMS | ATTENTION_BIASES, SIZES, per_layer_fields=LAYER_TYPES),
)

OLMO = ENDS | PROJECTIONS | GATED_MLP | ATTENTION_BIASES
OLMO_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
OLMO_LIKE = (
    Family(
        "olmo2",
        OLMO | POST_NORMS | WIDE_NORMS,
        SIZES,
        norms=OLMO_POST_NORMS,
        norms_after=True,
        no_rotation=NORMS_AFTER,
    ),
    Family(
        "olmo3",
        OLMO | POST_NORMS | WIDE_NORMS,
        SIZES,
        norms=OLMO_POST_NORMS,
        norms_after=True,
        per_layer_fields=LAYER_TYPES,
        no_rotation=NORMS_AFTER,
    ),
)

GEMMA = ENDS | PROJECTIONS | GATED_MLP | ATTENTION_BIASES
GEMMA_FEEDING_NORMS = ("input_layernorm", "pre_feedforward_layernorm")
GEMMA_LIKE = (
    Family("gemma", GEMMA | PRE_NORMS, SIZES, scaled_embedding=True, norm_offset=1.0),
    Family(
        "gemma2",
        GEMMA | FOUR_NORMS,
        SIZES,
        norms=GEMMA_FEEDING_NORMS,
        per_layer_fields=LAYER_TYPES,
        heads_divide_hidden=True,
        scaled_embedding=True,
        norm_offset=1.0,
        no_rotation=NORMS_AFTER,
    ),
    Family(
        "gemma3_text",
        GEMMA | FOUR_NORMS | HEAD_NORMS,
        SIZES,
        norms=GEMMA_FEEDING_NORMS,
        per_layer_fields=LAYER_TYPES,
        heads_divide_hidden=True,
        scaled_embedding=True,
        norm_offset=1.0,
        no_rotation=NORMS_AFTER,
    ),
)

PLAIN_MLP = {MLP + "up_proj.weight": "ffn hidden", MLP + "down_proj.weight": "hidden ffn"}
PLAIN_MLP_BIASES = {MLP + "up_proj.bias": "ffn", MLP + "down_proj.bias": "hidden"}
NEMOTRON = Family(
    "nemotron",
    ENDS
    | {"model.norm.bias": "hidden"}
    | with_biases(PRE_NORMS)
    | PROJECTIONS
    | ATTENTION_BIASES
    | PLAIN_MLP
    | only_if("mlp_bias", PLAIN_MLP_BIASES),
    SIZES,
    norm_offset=1.0,
    no_rotation=LAYER_NORM,
)

STARCODER2 = Family(
    "starcoder2",
    ENDS
    | {"model.norm.bias": "hidden"}
    | with_biases(PRE_NORMS)
    | PROJECTIONS
    | {MLP + "c_fc.weight": "ffn hidden", MLP + "c_proj.weight": "hidden ffn"}
    | only_if(
        "use_bias", QKV_BIASES | OUTPUT_BIAS | {MLP + "c_fc.bias": "ffn", MLP + "c_proj.bias": "hidden"}
    ),
    SIZES,
    no_rotation=LAYER_NORM,
)

# Phi3Config has no head_dim: its own check of the longrope factors takes hidden / heads.
PHI3 = Family(
    "phi3",
    ENDS
    | PRE_NORMS
    | {
        ATTENTION + "qkv_proj.weight": "[(kv group dim) | (kv dim) | (kv dim)] hidden",
        ATTENTION + "o_proj.weight": "hidden (kv group dim)",
        MLP + "gate_up_proj.weight": "(2 ffn) hidden",
        MLP + "down_proj.weight": "hidden ffn",
    },
    SIZES,
    hidden_is_heads=True,
)

NEOX = "gpt_neox.layers.{layer}."
NEOX_NORMS = {
    NEOX + "input_layernorm.weight": "hidden",
    NEOX + "post_attention_layernorm.weight": "hidden",
    "gpt_neox.final_layer_norm.weight": "hidden",
}
NEOX_ATTENTION = {
    NEOX + "attention.query_key_value.weight": "(kv 3 dim) hidden",
    NEOX + "attention.dense.weight": "hidden (kv dim)",
}
NEOX_ATTENTION_BIASES = {
    NEOX + "attention.query_key_value.bias": "(kv 3 dim)",
    NEOX + "attention.dense.bias": "hidden",
}
NEOX_MLP = {
    NEOX + "mlp.dense_h_to_4h.weight": "ffn hidden",
    NEOX + "mlp.dense_h_to_4h.bias": "ffn",
    NEOX + "mlp.dense_4h_to_h.weight": "hidden ffn",
    NEOX + "mlp.dense_4h_to_h.bias": "hidden",
}
GPT_NEOX = Family(
    "gpt_neox",
    {"gpt_neox.embed_in.weight": "vocab hidden", "lm_head.weight": "vocab hidden"}
    | with_biases(NEOX_NORMS)
    | NEOX_ATTENTION
    | only_if("attention_bias", NEOX_ATTENTION_BIASES)
    | NEOX_MLP,
    SIZES | {"kv": "num_attention_heads"},
    saved={"lm_head.weight": {"embed_out.weight": "vocab hidden"}},
    unread=tuple(NEOX + "attention." + name for name in ("bias", "masked_bias", "rotary_emb.inv_freq")),
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    hidden_is_heads=True,
    no_rotation=LAYER_NORM,
)

FAMILIES = (*LLAMA_LIKE, *OLMO_LIKE, *GEMMA_LIKE, NEMOTRON, STARCODER2, PHI3, GPT_NEOX)
