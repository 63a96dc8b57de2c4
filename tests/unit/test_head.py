"""Backbone and head together are the model."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaForCausalLM

from niwaki.errors import CheckpointError
from niwaki.ground.head import check_head, split_head

TINY = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
TRANSFORMS = {
    "gemma2": {"final_logit_softcapping": 0.5, "head_dim": 8},
    "granite": {"logits_scaling": 7.0},
    "cohere": {"logit_scale": 0.3},
    "phi": {},  # its head has a bias
}
FAMILIES = ["llama", "qwen3", "gpt_neox", "nemotron", "mixtral", "gemma3_text", "phi3", *TRANSFORMS]


def tiny(model_type):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **TINY | TRANSFORMS.get(model_type, {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.get_output_embeddings().parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("model_type", FAMILIES)
def test_backbone_and_head_give_the_stock_logits(model_type):
    model = tiny(model_type)
    tokens = torch.randint(1, 90, (2, 9))
    with torch.no_grad():
        backbone, head = split_head(model)
        found = head.logits(backbone(input_ids=tokens).last_hidden_state)
        torch.testing.assert_close(found, model(input_ids=tokens).logits)
    assert head.weight is model.get_output_embeddings().weight
    check_head(model)


def test_what_a_family_does_to_its_logits_unknown_to_us_is_refused(tiny_model):
    class Louder(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.01
            return output

    tiny_model.__class__ = Louder
    tiny_model.train()
    with pytest.raises(CheckpointError, match="Louder: logits are not its backbone and head alone"):
        check_head(tiny_model)
    assert tiny_model.training


def test_weights_that_are_not_numbers_are_refused(tiny_model):
    with torch.no_grad():
        tiny_model.model.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError):
        check_head(tiny_model)


def test_a_model_without_a_head_is_refused():
    model = AutoModel.from_config(AutoConfig.for_model("llama", **TINY))
    with pytest.raises(CheckpointError, match="LlamaModel: expected a backbone and a linear output head"):
        split_head(model)
