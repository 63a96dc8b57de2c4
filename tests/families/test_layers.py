"""A model in memory without some of its layers is the model that trimming makes."""

import pytest
import torch
from tiny import NUM_LAYERS, PROMPT, logits, tiny, trimmed

from niwaki.errors import FamilyError
from niwaki.ground.family import FAMILIES
from niwaki.ground.layers import layer_list, only_layers, starting_from, without_layers


@pytest.mark.parametrize("kept", [[0, 2, 3], [1], [0, 3]])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_logits_and_generation_are_those_of_the_trimmed_model(model_type, kept):
    family, config, model = tiny(model_type)
    small = trimmed(family, config, model.state_dict(), {"layer": torch.tensor(kept)})
    with only_layers(model, kept):
        assert model.config.to_dict() == small.config.to_dict()
        assert torch.equal(logits(model), logits(small))
        expected, found = (m.generate(PROMPT, max_new_tokens=6, do_sample=False) for m in (small, model))
        assert torch.equal(expected, found)


def test_everything_is_as_before_even_after_an_error():
    _, _, model = tiny("gemma3_text")
    before, config, layers = logits(model), model.config.to_dict(), list(layer_list(model))
    with pytest.raises(FamilyError, match="2 layers"), without_layers(model, [1, 2]), only_layers(model, [2]):
        pass
    assert model.config.to_dict() == config
    assert list(layer_list(model)) == layers
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(NUM_LAYERS))
    assert torch.equal(logits(model), before)
    assert model.generate(PROMPT, max_new_tokens=2).shape == (2, PROMPT.shape[1] + 2)


def test_the_config_stays_the_object_that_every_module_holds():
    _, _, model = tiny("llama")
    config = model.config
    with without_layers(model, [0]):
        assert model.config is config
        assert model.model.layers[0].self_attn.config.num_hidden_layers == NUM_LAYERS - 1


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [0, 4], [-1]])
def test_layers_that_the_model_does_not_have_are_refused(kept):
    with pytest.raises(FamilyError, match="4 layers"), only_layers(tiny("llama")[2], kept):
        pass


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "gemma2"])
@torch.no_grad()
def test_a_layer_can_start_from_what_is_given(model_type):
    _, _, model = tiny(model_type)
    found = []
    layers = layer_list(model)
    handle = layers[2].register_forward_pre_hook(lambda module, args: found.append(args[0]))
    whole = logits(model)
    handle.remove()
    with only_layers(model, [2, 3]), starting_from(layers[2], found[0]):
        assert torch.equal(logits(model), whole)
