"""The whole line where experts, coupled axes or a single key-value head make it harder than on a Llama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from niwaki.ground.family import family_of
from niwaki.pipelines import compress
from niwaki.pipelines.plan import plan
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load

from ..conftest import write_texts

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "head_dim": 8}
CASES = {
    "mixtral": (
        "mixtral",
        {**EXPERTS, "num_local_experts": 4},
        {"grid": {"expert": [3], "effn": [32], "kv": [1]}},
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 24},
        {"axes": ["hidden", "expert", "effn"], "max_candidates": 2, "rank": "distill"},
    ),
    "phi3": ("phi3", {}, {"axes": ["hidden", "ffn", "kv", "group"], "max_candidates": 1}),
    "gpt_neox": ("gpt_neox", {}, {"max_candidates": 1}),
    "one key-value head": (
        "llama",
        {"num_key_value_heads": 1, "head_dim": 8},
        {"grid": {"group": [2]}, "to": "90%"},
    ),
    "heads differ": ("qwen3", {"num_attention_heads": 8, "head_dim": 8}, {"grid": {"heads": [4]}}),
}


def write(folder: Path, tokenizer: PreTrainedTokenizerFast, case: str, **score: Any) -> CompressRecipe:
    model_type, changes, choose = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    recipe = {
        "kind": "compress",
        "teacher": str(folder / "teacher"),
        "data": {
            "source": str(write_texts(folder / "texts")),
            "sequence_length_tokens": 16,
            "held_out": "30%",
        },
        "score": {"num_samples": 6, "batch_rows": 4, **score},
        "choose": {"to": "75%", "tolerance": "20%", "rank": "loss", "trial_tokens": 128, **choose},
        "distill": {
            "tokens": 512,
            "batch_tokens": 64,
            "micro_rows": 2,
            "learning_rate": 1e-2,
            "precision": "float32",
        },
        "evaluate": {"num_tokens": 160, "speed": False},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return load(folder / "recipe.yaml", CompressRecipe)


@pytest.mark.parametrize("case", CASES)
def test_the_line_ends_in_a_smaller_model_that_learned_from_its_teacher(case, tokenizer, tmp_path):
    recipe, out = write(tmp_path, tokenizer, case), tmp_path / "run"
    planned = plan(recipe, out=out, flops_per_s=1.0)
    assert not planned.problems
    results = compress.run(recipe, out=out)["models"]
    assert results["distilled"]["kl_to_teacher"]["mean"] < results["trimmed"]["kl_to_teacher"]["mean"]
    record = json.loads((out / "3-trim" / "model" / "trim.json").read_text())
    asked = recipe.choose.grid or recipe.choose.axes or ("hidden", "kv")
    assert {axis.replace("heads", "group") for axis in asked} & record["keep"].keys()
    student = AutoModelForCausalLM.from_pretrained(out / "4-distill" / "model")
    family = family_of(student.config)
    assert family.axis_sizes(student.config) == record["sizes"] != record["parent_sizes"]


def test_key_value_heads_may_keep_different_query_heads(tokenizer, tmp_path):
    recipe, out = write(tmp_path, tokenizer, "heads differ"), tmp_path / "run"
    for stage in (compress.score_stage, compress.choose_stage, compress.trim_stage):
        stage(recipe, out)
    group = torch.tensor(json.loads((out / "3-trim" / "model" / "trim.json").read_text())["keep"]["group"])
    assert group.shape == (2, 2, 2)
    assert (group[:, 0] != group[:, 1]).any()
