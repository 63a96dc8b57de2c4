"""Every family is heard at the right places: the scores see exactly the units that its table names."""

import pytest
import torch
from tiny import PromptRows, tiny_config, tiny_model

from niwaki.ground.family import FAMILIES, family_of
from niwaki.pruning.importance import unit_shape
from niwaki.pruning.score import score


def scored(model):
    return score(model, PromptRows(), num_samples=2)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_axis_has_one_finite_score_per_unit(model_type):
    config = tiny_config(model_type)
    sizes = family_of(config).axis_sizes(config)
    scores = scored(tiny_model(config))
    importances = scores.importances()
    assert set(importances) >= set(family_of(config).axes)
    for axis, importance in importances.items():
        assert importance.shape == unit_shape(axis, sizes)
        assert importance.isfinite().all()
        assert (importance >= 0).all()
        assert importance.sum() > 0


def silence(model, family, axis, layer, unit):
    """Zero the rows that make one neuron, or one value head and with it its query heads."""
    sizes = family.axis_sizes(model.config)
    kv, dim = sizes["kv"], sizes["dim"]
    for name, tensor in model.state_dict().items():
        match = family.match(name)
        rows = match.expr.removesuffix(" hidden")
        if match.layer != layer:
            continue
        if axis == "ffn" and rows == "ffn":
            tensor[unit] = 0
        if axis == "ffn" and rows == "(2 ffn)":
            tensor.unflatten(0, (2, sizes["ffn"]))[:, unit] = 0
        if axis == "effn" and match.expr == "expert (2 effn) hidden":
            tensor.unflatten(1, (2, sizes["effn"]))[:, :, unit] = 0
        if axis == "group" and rows == "(kv dim)" and "v_proj" in name:
            tensor.unflatten(0, (kv, dim))[unit] = 0
        if axis == "group" and rows.startswith("[(kv group dim) |"):
            tensor[-kv * dim :].unflatten(0, (kv, dim))[unit] = 0
        if axis == "group" and rows.startswith("(kv 3 dim)"):
            tensor.unflatten(0, (kv, 3, dim))[unit, 2] = 0


@pytest.mark.parametrize("axis", ["ffn", "group", "effn"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_silenced_unit_scores_nothing_and_its_neighbours_as_before(model_type, axis):
    config = tiny_config(model_type)
    family, model = family_of(config), tiny_model(config)
    if axis in ("ffn", "effn") and axis not in family.axes:
        pytest.skip("the family has no such axis")
    layer, unit = 2, 1
    # The neuron of this number in every expert.
    units = (..., unit) if axis == "effn" else unit
    before = scored(model).importance(axis)[layer]
    assert before[units].sum() > 0
    silence(model, family, axis, layer, unit)
    after = scored(model).importance(axis)[layer]
    expected = before.clone()
    expected[units] = 0
    torch.testing.assert_close(after, expected)
