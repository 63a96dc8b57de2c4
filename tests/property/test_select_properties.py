"""Selection holds for any scores and any sizes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.pruning.importance import unit_shape
from niwaki.pruning.select import drop, select

SIZES = {"layer": 3, "hidden": 7, "ffn": 6, "kv": 3, "group": 4, "expert": 4, "effn": 5}
AXES = ("hidden", "ffn", "kv", "group", "expert", "effn")
few_values = st.integers(0, 2**31)  # a seed; drawing from few values makes ties common


def importance_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return {axis: torch.randint(4, unit_shape(axis, SIZES), generator=generator) for axis in AXES}


sizes = st.fixed_dictionaries({axis: st.integers(1, SIZES[axis]) for axis in AXES})


@settings(deadline=None)
@given(seed=few_values, sizes=sizes)
def test_indices_are_valid_ascending_and_as_many_as_asked(seed, sizes):
    keep = select(importance_of(seed), SIZES, sizes)
    assert set(keep) == {axis for axis, size in sizes.items() if size < SIZES[axis]}
    for axis, indices in keep.items():
        assert indices.dtype == torch.int64
        assert indices.shape[-1] == sizes[axis]
        assert (indices.diff(dim=-1) > 0).all()
        assert indices.min() >= 0
        assert indices.max() < SIZES[axis]


@settings(deadline=None)
@given(seed=few_values, axis=st.sampled_from(AXES), data=st.data())
def test_a_smaller_selection_is_part_of_a_larger_one(seed, axis, data):
    large = data.draw(st.integers(2, SIZES[axis] - 1))
    small = data.draw(st.integers(1, large - 1))
    importance = importance_of(seed)
    larger, smaller = (select(importance, SIZES, {axis: size})[axis] for size in (large, small))
    rows = zip(larger.reshape(-1, large).tolist(), smaller.reshape(-1, small).tolist(), strict=True)
    assert all(set(fewer) < set(more) for more, fewer in rows)


@given(influence=st.lists(st.floats(0, 2), min_size=2, max_size=12), data=st.data())
def test_dropped_layers_are_as_many_as_asked_and_never_the_last(influence, data):
    num_dropped = data.draw(st.integers(1, len(influence) - 1))
    dropped = drop(torch.tensor(influence), num_dropped)
    assert dropped == sorted(set(dropped))
    assert len(dropped) == num_dropped
    assert set(dropped) <= set(range(len(influence) - 1))
    if num_dropped <= len(influence) - 2:
        assert 0 not in dropped
    if num_dropped > 2:
        assert dropped[-1] - dropped[0] == num_dropped - 1
