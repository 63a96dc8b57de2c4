"""Any legal `keep` gives its sizes; any single fault in it is refused."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from niwaki.errors import FamilyError
from niwaki.pruning.keep import kept_sizes

SIZES = {"layer": 3, "hidden": 12, "ffn": 10, "kv": 2, "group": 4, "dim": 2, "expert": 5, "effn": 6}
LEADING = {
    "layer": [()], "hidden": [()], "ffn": [(3,)], "kv": [(3,)], "group": [(3, 2)], "expert": [(3,)],
    "effn": [(3,), (3, 5)],
}  # fmt: skip
FAMILY = SimpleNamespace(model_type="any", axes=tuple(LEADING), check=lambda sizes: None)


@st.composite
def index_sets(draw, axis):
    leading = draw(st.sampled_from(LEADING[axis]))
    num = draw(st.integers(1, SIZES[axis]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.rand(*leading, SIZES[axis], generator=generator).argsort(-1)[..., :num].sort(-1).values


keeps = st.fixed_dictionaries({}, optional={axis: index_sets(axis) for axis in LEADING})
axes = st.sampled_from(sorted(LEADING))


@given(keeps)
def test_sizes_are_the_numbers_of_kept_indices(keep):
    expected = {axis: keep[axis].shape[-1] if axis in keep else size for axis, size in SIZES.items()}
    assert kept_sizes(FAMILY, SIZES, keep) == expected


@given(st.data(), axes)
def test_one_index_out_of_order_is_refused(data, axis):
    indices = data.draw(index_sets(axis).filter(lambda indices: indices.shape[-1] > 1))
    row = data.draw(st.integers(0, indices[..., 0].numel() - 1))
    flat = indices.reshape(-1, indices.shape[-1]).clone()
    flat[row] = flat[row].flip(0)
    with pytest.raises(FamilyError, match="ascending"):
        kept_sizes(FAMILY, SIZES, {axis: flat.reshape(indices.shape)})


@given(st.data(), axes, st.booleans())
def test_one_index_out_of_range_is_refused(data, axis, below):
    indices = data.draw(index_sets(axis)).clone()
    row = data.draw(st.integers(0, indices[..., 0].numel() - 1))
    flat = indices.reshape(-1, indices.shape[-1])
    flat[row, 0 if below else -1] = -1 if below else SIZES[axis]
    with pytest.raises(FamilyError, match=r"expected 0 to"):
        kept_sizes(FAMILY, SIZES, {axis: indices})


@given(st.data(), st.sampled_from([axis for axis in sorted(LEADING) if LEADING[axis] != [()]]))
def test_a_missing_layer_is_refused(data, axis):
    indices = data.draw(index_sets(axis))
    with pytest.raises(FamilyError, match="shape"):
        kept_sizes(FAMILY, SIZES, {axis: indices[:-1]})
