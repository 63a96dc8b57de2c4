"""Families with experts. In memory the experts of a layer are one tensor; on disk each has its own."""

from __future__ import annotations

from niwaki.ground.families.lines import (
    ATTENTION_BIASES,
    ENDS,
    HEAD_NORMS,
    LAYER,
    MLP,
    PRE_NORMS,
    PROJECTIONS,
    SIZES,
)
from niwaki.ground.table import Family

DENSE_SIZES = {axis: name for axis, name in SIZES.items() if axis != "ffn"}
ROUTER = {MLP + "gate.weight": "expert hidden"}
EXPERTS = {
    MLP + "experts.gate_up_proj": "expert (2 effn) hidden",
    MLP + "experts.down_proj": "expert hidden effn",
}
EXPERT = MLP + "experts.{expert}."
SPARSE_MOE = LAYER + "block_sparse_moe."

MIXTRAL = Family(
    "mixtral",
    ENDS | PRE_NORMS | PROJECTIONS | ROUTER | EXPERTS,
    DENSE_SIZES | {"expert": "num_local_experts", "effn": "intermediate_size"},
    saved={
        MLP + "gate.weight": {SPARSE_MOE + "gate.weight": "expert hidden"},
        MLP + "experts.gate_up_proj": {
            SPARSE_MOE + "experts.{expert}.w1.weight": "effn hidden",
            SPARSE_MOE + "experts.{expert}.w3.weight": "effn hidden",
        },
        MLP + "experts.down_proj": {SPARSE_MOE + "experts.{expert}.w2.weight": "hidden effn"},
    },
)

# Layers without experts (mlp_only_layers, decoder_sparse_step) occur in no published qwen3_moe model.
QWEN3_MOE = Family(
    "qwen3_moe",
    ENDS | PRE_NORMS | PROJECTIONS | HEAD_NORMS | ATTENTION_BIASES | ROUTER | EXPERTS,
    DENSE_SIZES | {"expert": "num_experts", "effn": "moe_intermediate_size"},
    saved={
        MLP + "experts.gate_up_proj": {
            EXPERT + "gate_proj.weight": "effn hidden",
            EXPERT + "up_proj.weight": "effn hidden",
        },
        MLP + "experts.down_proj": {EXPERT + "down_proj.weight": "hidden effn"},
    },
    requires={"mlp_only_layers": [], "decoder_sparse_step": 1},
)

FAMILIES = (MIXTRAL, QWEN3_MOE)
