"""The conformance suite is only as good as the wrong tables it catches.

Every line of a table is broken in every way a tired person might break it, on a model in which as many
sizes as possible coincide, so that shapes alone betray little and the permutation oracle has to.
"""

from dataclasses import replace

import pytest
import torch
from tiny import WITH_BIASES, logits, permutation, tiny

from niwaki.errors import FamilyError
from niwaki.ground.axes import AXES, parse

SAME = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64, "vocab_size": 90}
FOURS = SAME | {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 4, "num_experts": 4}
CASES = {
    "llama": FOURS | WITH_BIASES,
    "gemma2": FOURS,
    "olmo2": FOURS,
    "qwen3": FOURS,
    "phi3": FOURS | {"head_dim": None},
    "gpt_neox": SAME | {"num_attention_heads": 8, "head_dim": None},
    "qwen3_moe": FOURS,
}


def write(dims):
    blocks = [["(" + " ".join(block) + ")" for block in dim] for dim in dims]
    return " ".join(dim[0] if len(dim) == 1 else "[" + " | ".join(dim) + "]" for dim in blocks)


def wrong_expressions(expr):
    """Every expression one slip away from this one."""
    dims = parse(expr)
    for d, dim in enumerate(dims):
        yield write(dims[:d] + dims[d + 1 :])
        if d:
            yield write((*dims[: d - 1], dim, dims[d - 1], *dims[d + 1 :]))
        yield write((*dims[:d], dim[1:] + dim[:1], *dims[d + 1 :]))
        for b, block in enumerate(dim):
            for position, name in enumerate(block):
                changed = [(*block[:position], axis, *block[position + 1 :]) for axis in AXES if axis != name]
                if position:
                    changed.append(
                        (*block[: position - 1], name, block[position - 1], *block[position + 1 :])
                    )
                for other in changed:
                    yield write((*dims[:d], (*dim[:b], other, *dim[b + 1 :]), *dims[d + 1 :]))


def wrong_tables(family):
    for pattern, expr in family.tensors.items():
        rest = {name: line for name, line in family.tensors.items() if name != pattern}
        yield f"without {pattern}", replace(family, tensors=rest)
        yield f"{pattern} misspelt", replace(family, tensors=rest | {pattern + "x": expr})
        for wrong in dict.fromkeys(wrong_expressions(expr)):
            if meaning(wrong) != meaning(expr):
                yield f"{pattern}: {wrong}", replace(family, tensors=family.tensors | {pattern: wrong})


def meaning(expr):
    """Two tables mean the same when they differ only in the order of neighbours that nobody can trim."""
    try:
        dims = parse(expr)
    except FamilyError:
        return expr
    whole = [[[n if n in AXES and n != "dim" else "whole" for n in block] for block in dim] for dim in dims]
    return whole, [sorted(block) for dim in dims for block in dim]


def suite_passes(family, config, state, model, expected):
    """Coverage and permutation tests of test_conformance, in one pass over all axes."""
    try:
        sizes = family.axis_sizes(config)
        if family.shapes(sizes) != {name: tuple(tensor.shape) for name, tensor in state.items()}:
            return False
        generator = torch.Generator().manual_seed(5)
        keep = {axis: permutation(axis, sizes, generator) for axis in family.axes if axis != "layer"}
        keep = {axis: order for axis, order in keep.items() if order.shape[-1] > 1}
        model.load_state_dict(dict(family.take(name, t, sizes, keep) for name, t in state.items()))
    except FamilyError:
        return False
    return torch.allclose(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", CASES)
def test_every_wrong_table_is_caught(model_type):
    family, config, model = tiny(model_type, num_hidden_layers=2, layer_types=None, **CASES[model_type])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    case = (config, state, model, logits(model))
    assert suite_passes(family, *case)
    mutants = dict(wrong_tables(family))
    assert len(mutants) > 100
    assert [name for name, wrong in mutants.items() if suite_passes(wrong, *case)] == []


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "qwen3_moe"])
def test_a_wrong_config_field_is_caught_by_the_shapes(model_type):
    family, config, model = tiny(model_type)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for axis in family.sizes:
        for other in set(family.sizes.values()) - {family.sizes[axis]}:
            wrong = replace(family, sizes=family.sizes | {axis: other})
            with pytest.raises((AssertionError, FamilyError, ZeroDivisionError)):
                assert wrong.shapes(wrong.axis_sizes(config)) == shapes
