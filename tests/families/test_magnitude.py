"""Measures of weights see, in every family, exactly the weights that go when a unit is cut."""

from dataclasses import replace

import pytest
import tiny
import torch

from niwaki.ground.family import FAMILIES
from niwaki.pruning.importance import unit_shape
from niwaki.pruning.measures import magnitude


def squares(tensors):
    return sum(tensor.double().square().sum() for tensor in tensors)


CASES = [(name, False) for name in FAMILIES] + [("llama", True)]


@pytest.mark.parametrize("model_type, tied", CASES)
def test_the_squared_magnitude_of_a_unit_is_what_its_cut_takes_from_the_model(model_type, tied):
    family, config, model = tiny.tiny(model_type, tie_word_embeddings=tied)
    sizes = family.axis_sizes(config)
    generator = torch.Generator().manual_seed(3)
    weights = dict(model.named_parameters())
    plain = replace(family, scaled_embedding=False)  # gemma's cut also rescales what stays
    importance = magnitude(model)
    assert importance.keys() == set(family.axes)
    for axis, values in importance.items():
        assert values.shape == unit_shape(axis, sizes)
        kept = tiny.subset(axis, sizes[axis] - 1, sizes, generator)
        taken = [plain.take(name, weight.detach(), sizes, {axis: kept}) for name, weight in weights.items()]
        lost = squares(weights.values()) - squares(cut[1] for cut in taken if cut is not None)
        gone = values.square().sum() - values.square().gather(-1, kept).sum()
        torch.testing.assert_close(gone, lost.detach(), rtol=1e-6, atol=1e-6, msg=f"{model_type} {axis}")
