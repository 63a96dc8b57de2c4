"""Every family is heard at the right places: the scores see exactly the units that its table names."""

import warnings

import pytest
import torch
from tiny import PROMPT, tiny_config, tiny_model

from niwaki.ground.family import FAMILIES, family_of
from niwaki.pruning.score import score


class Rows:
    def take(self, start, count):
        return {"inputs": PROMPT[start : start + count], "mask": torch.ones(count, 12, dtype=torch.bool)}


def scored(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fused experts are named; see tests/unit/test_score.py
        return score(model, Rows(), num_samples=2)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_axis_has_one_finite_score_per_unit(model_type):
    config = tiny_config(model_type)
    sizes = family_of(config).axis_sizes(config)
    scores = scored(tiny_model(config))
    shapes = {
        "hidden": (sizes["hidden"],),
        "ffn": (sizes["layer"], sizes.get("ffn")),
        "group": (sizes["layer"], sizes["kv"], sizes["group"]),
        "layer": (sizes["layer"],),
    }
    assert set(shapes) - set(scores.axes) == (set() if family_of(config).sites.ffn else {"ffn"})
    for axis in scores.axes:
        importance = scores.importance(axis)
        assert importance.shape == shapes[axis]
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
        if axis == "group" and rows == "(kv dim)" and "v_proj" in name:
            tensor.unflatten(0, (kv, dim))[unit] = 0
        if axis == "group" and rows.startswith("[(kv group dim) |"):
            tensor[-kv * dim :].unflatten(0, (kv, dim))[unit] = 0
        if axis == "group" and rows.startswith("(kv 3 dim)"):
            tensor.unflatten(0, (kv, 3, dim))[unit, 2] = 0


@pytest.mark.parametrize("axis", ["ffn", "group"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_silenced_unit_scores_nothing_and_its_neighbours_as_before(model_type, axis):
    config = tiny_config(model_type)
    family, model = family_of(config), tiny_model(config)
    if axis == "ffn" and family.sites.ffn is None:
        pytest.skip("the neurons are inside fused experts")
    layer, unit = 2, 1
    before = scored(model).importance(axis)[layer]
    assert (before[unit] > 0).all()
    silence(model, family, axis, layer, unit)
    after = scored(model).importance(axis)[layer]
    expected = before.clone()
    expected[unit] = 0
    torch.testing.assert_close(after, expected)
