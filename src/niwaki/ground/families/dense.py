"""Families with one MLP per layer. Names follow `model.state_dict()` of transformers 5."""

from __future__ import annotations

from niwaki.ground.families.lines import (
    ATTENTION_BIASES,
    ENDS,
    GATED_MLP,
    GATED_MLP_BIASES,
    HEAD_NORMS,
    PRE_NORMS,
    PROJECTIONS,
    QKV_BIASES,
    SIZES,
    only_if,
)
from niwaki.ground.table import Family

LLAMA = ENDS | PRE_NORMS | PROJECTIONS | GATED_MLP
LLAMA_BIASES = ATTENTION_BIASES | only_if("mlp_bias", GATED_MLP_BIASES)
GEMMA = {
    "scaled_embedding": True,
    "norm_offset": 1.0,
}
NEOX = "gpt_neox.layers.{layer}."

FAMILIES = (
    Family("llama", LLAMA | LLAMA_BIASES, SIZES),
    Family("mistral", LLAMA, SIZES),
    Family("qwen2", LLAMA | QKV_BIASES, SIZES, per_layer_fields=("layer_types",)),
    Family("qwen3", LLAMA | HEAD_NORMS | ATTENTION_BIASES, SIZES, per_layer_fields=("layer_types",)),
)
