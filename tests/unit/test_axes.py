"""Axis expressions: what they mean, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.errors import FamilyError
from niwaki.ground.axes import axes_of, count, parse, shape, take

SIZES = {"hidden": 5, "ffn": 7, "kv": 3, "group": 2, "dim": 4, "expert": 3, "effn": 6, "vocab": 11}
EXPRESSIONS = [
    "hidden",
    "hidden ffn",
    "(kv group dim) hidden",
    "hidden (kv group dim)",
    "[(kv group dim) | (kv dim) | (kv dim)] hidden",
    "[ffn | hidden] [hidden | (2 dim)]",
    "(2 ffn) hidden",
    "(kv 3 dim)",
    "expert (2 effn) hidden",
    "expert hidden effn",
]


def numbered(expr, sizes=SIZES):
    return torch.arange(count(expr, sizes)).reshape(shape(expr, sizes))


def test_parse_gives_dims_of_blocks_of_names():
    assert parse("[(kv dim) | ffn] hidden") == ((("kv", "dim"), ("ffn",)), (("hidden",),))
    assert axes_of("(2 ffn) [ffn | hidden]") == ("ffn", "hidden")


@pytest.mark.parametrize(
    "expr, expected",
    [
        ("(kv group dim) hidden", (24, 5)),
        ("[(kv group dim) | (kv dim) | (kv dim)] hidden", (48, 5)),
        ("expert (2 effn) hidden", (3, 12, 5)),
    ],
)
def test_shape_multiplies_blocks_and_adds_concatenations(expr, expected):
    assert shape(expr, SIZES) == expected


MALFORMED = """
(kv dim
kv dim)
[a | b]
heads hidden
layer hidden
(kv (dim)) hidden
() hidden
[kv | ] hidden
[kv dim] hidden
kv | dim
(0 ffn)
(kv kv)
[kv | [dim]]
-1 hidden
"""


@pytest.mark.parametrize("expr", MALFORMED.split("\n"))
def test_malformed_expressions_are_refused_by_name(expr):
    with pytest.raises(FamilyError, match="Axis expression") as caught:
        parse(expr)
    assert repr(expr) in caught.value.message


def test_a_wrong_shape_names_expression_dim_and_both_shapes():
    with pytest.raises(FamilyError) as caught:
        take(torch.zeros(5, 8), "hidden ffn", SIZES, {})
    assert "'hidden ffn', dim 1" in caught.value.message
    assert "(5, 7)" in caught.value.message
    assert "(5, 8)" in caught.value.message


def test_a_wrong_number_of_dims_is_refused():
    with pytest.raises(FamilyError, match="2 dims"):
        take(torch.zeros(5), "hidden ffn", SIZES, {})


def test_an_axis_without_a_size_is_refused_by_name():
    with pytest.raises(FamilyError, match="'effn' has no size"):
        shape("effn hidden", {"hidden": 5})


def test_per_layer_indices_on_a_tensor_without_a_layer_are_refused():
    with pytest.raises(FamilyError, match="belongs to no layer"):
        take(numbered("vocab ffn"), "vocab ffn", SIZES, {"ffn": torch.zeros(2, 1, dtype=torch.int64)})


def test_per_parent_indices_without_the_parent_are_refused():
    keep = {"group": torch.zeros(1, 3, 1, dtype=torch.int64)}
    with pytest.raises(FamilyError, match="kv does not come before group"):
        take(numbered("(group dim)"), "(group dim)", SIZES, keep, layer=0)


def test_each_layer_takes_its_own_row():
    keep = {"ffn": torch.tensor([[0, 1], [5, 6]])}
    assert take(torch.arange(7), "ffn", SIZES, keep, layer=0).tolist() == [0, 1]
    assert take(torch.arange(7), "ffn", SIZES, keep, layer=1).tolist() == [5, 6]


def test_each_key_value_head_takes_its_own_query_heads():
    heads = torch.arange(3 * 2).reshape(6)
    sizes = SIZES | {"dim": 1}
    keep = {"group": torch.tensor([[[1], [0], [1]]])}
    assert take(heads, "(kv group dim)", sizes, keep, layer=0).tolist() == [1, 2, 5]
    # With key-value heads 0 and 2 kept, their rows of `group` go with them.
    keep["kv"] = torch.tensor([[0, 2]])
    assert take(heads, "(kv group dim)", sizes, keep, layer=0).tolist() == [1, 5]


def test_each_expert_takes_its_own_neurons_from_gate_and_up():
    expr, sizes = "expert (2 effn)", {"expert": 2, "effn": 3}
    keep = {"effn": torch.tensor([[[0, 2], [1, 2]]])}
    taken = take(numbered(expr, sizes), expr, sizes, keep, layer=0)
    assert taken.tolist() == [[0, 2, 3, 5], [7, 8, 10, 11]]


def test_blocks_of_a_concatenation_are_cut_apart_and_joined_again():
    expr = "[(kv group dim) | (kv dim)]"
    sizes = {"kv": 2, "group": 2, "dim": 1}
    assert take(numbered(expr, sizes), expr, sizes, {"kv": torch.tensor([1])}).tolist() == [2, 3, 5]


@st.composite
def keeps(draw):
    """Some indices, ascending, for some axes."""
    axes = draw(st.lists(st.sampled_from([*SIZES]), unique=True))
    chosen = {a: draw(st.sets(st.integers(0, SIZES[a] - 1), min_size=1)) for a in axes}
    return {axis: torch.tensor(sorted(indices)) for axis, indices in chosen.items()}


expressions = st.sampled_from(EXPRESSIONS)


@given(expressions, keeps())
def test_the_result_has_the_shape_of_the_new_sizes(expr, keep):
    new = SIZES | {axis: len(kept) for axis, kept in keep.items()}
    taken = take(numbered(expr), expr, SIZES, keep)
    assert tuple(taken.shape) == shape(expr, new)
    assert taken.numel() == count(expr, new)


@given(expressions)
def test_keeping_everything_is_the_identity(expr):
    keep = {axis: torch.arange(size) for axis, size in SIZES.items()}
    assert torch.equal(take(numbered(expr), expr, SIZES, keep), numbered(expr))


@given(expressions, keeps(), st.data())
@settings(deadline=None)
def test_taking_twice_is_taking_the_taken_indices_once(expr, first, data):
    sizes = SIZES | {axis: len(kept) for axis, kept in first.items()}
    second = {
        axis: torch.tensor(sorted(data.draw(st.sets(st.integers(0, len(kept) - 1), min_size=1))))
        for axis, kept in first.items()
    }
    twice = take(take(numbered(expr), expr, SIZES, first), expr, sizes, second)
    once = take(numbered(expr), expr, SIZES, {axis: first[axis][second[axis]] for axis in first})
    assert torch.equal(twice, once)


@given(st.data())
def test_axes_can_be_taken_in_any_order(data):
    """Query heads chosen per key-value head, and key-value heads: together, or one after the other."""
    expr = "(kv group dim) hidden"
    group = torch.tensor([[data.draw(st.integers(0, 1))] for _ in range(3)])[None]
    kv = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 2), min_size=1))))
    together = take(numbered(expr), expr, SIZES, {"group": group, "kv": kv[None]}, layer=0)
    apart = take(numbered(expr), expr, SIZES, {"group": group}, layer=0)
    apart = take(apart, expr, SIZES | {"group": 1}, {"kv": kv})
    assert torch.equal(together, apart)
