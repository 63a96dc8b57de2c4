"""N:M patterns: candidates, groups along the input dimension, exactly N of M, packing at 0.67 bit."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from niwaki.errors import CheckpointError, RecipeError
from niwaki.masks.packed import Packing, bits
from niwaki.masks.patterns import Pattern

PATTERNS = ["2:4", "1:4", "4:8", "1:2", "3:4", "2:8", "1:40"]


def random_numbers(pattern, num_groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, pattern.num_candidates, (num_groups,), generator=generator, dtype=torch.uint8)


def test_the_candidates_of_2_of_4_come_in_canonical_order():
    rows = ["".join(str(int(x)) for x in row) for row in Pattern.parse("2:4").candidates_CM]
    assert rows == ["1100", "1010", "1001", "0110", "0101", "0011"]


@pytest.mark.parametrize(
    ("text", "candidates", "bound"), [("2:4", 6, 0.646241), ("1:4", 4, 0.5), ("4:8", 70, 0.766160)]
)
def test_counts_and_bounds_are_those_of_the_paper_page(text, candidates, bound):
    pattern = Pattern.parse(text)
    assert pattern.num_candidates == candidates
    assert pattern.bits_per_weight == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize(("text", "overlap"), [("2:4", 1.0), ("1:4", 0.25), ("4:8", 2.0)])
def test_the_mean_overlap_is_that_over_all_candidates(text, overlap):
    pattern = Pattern.parse(text)
    rows = pattern.candidates_CM.float()
    assert pattern.mean_overlap == overlap
    assert float((rows @ rows.T).mean()) == pytest.approx(overlap)


@pytest.mark.parametrize("text", ["4:4", "0:4", "5:4", "8:16", "2-4", "2:4:8", "", "-1:4"])
def test_other_patterns_are_refused(text):
    with pytest.raises(RecipeError, match="2:4"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", PATTERNS)
def test_largest_keeps_the_n_largest_of_every_group_along_the_input_dimension(text):
    pattern = Pattern.parse(text)
    scores = torch.randn(6, 3 * pattern.group, generator=torch.Generator().manual_seed(1))
    mask = pattern.mask(pattern.largest(scores), scores.shape)
    for row, column in itertools.product(range(6), range(0, 3 * pattern.group, pattern.group)):
        group = slice(column, column + pattern.group)
        wanted = set(scores[row, group].topk(pattern.kept).indices.tolist())
        assert set(mask[row, group].nonzero().flatten().tolist()) == wanted


def test_of_equal_scores_the_first_are_kept():
    assert Pattern.parse("2:4").largest(torch.zeros(1, 8)).tolist() == [0, 0]


@given(
    hnp.arrays(np.float32, (3, 16), elements=st.floats(-2, 2, width=16)),
    st.sampled_from(["2:4", "1:4", "4:8"]),
)
def test_every_mask_has_exactly_n_of_m(scores, text):
    pattern = Pattern.parse(text)
    mask = pattern.mask(pattern.largest(torch.from_numpy(scores)), scores.shape)
    assert (mask.reshape(-1, pattern.group).sum(1) == pattern.kept).all()


@pytest.mark.parametrize("text", PATTERNS)
def test_numbers_and_mask_are_inverse(text):
    pattern = Pattern.parse(text)
    numbers = random_numbers(pattern, 7 * 5)
    assert torch.equal(pattern.numbers(pattern.mask(numbers, (7, 5 * pattern.group))), numbers)


@pytest.mark.parametrize("text", ["2:4", "1:40"])
def test_a_group_that_keeps_another_number_is_named(text):
    pattern = Pattern.parse(text)
    mask = pattern.mask(random_numbers(pattern, 3), (3, pattern.group))
    mask[1] = True
    with pytest.raises(RecipeError, match=rf"Group 1 keeps {pattern.group} of"):
        pattern.numbers(mask)


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("num_groups", [0, 1, 2, 23, 24, 25, 1000])
def test_packing_is_a_round_trip(text, num_groups):
    pattern = Pattern.parse(text)
    packing = Packing(pattern)
    numbers = random_numbers(pattern, num_groups)
    packed = packing.pack(numbers)
    assert len(packed) == packing.num_bytes(num_groups)
    assert torch.equal(packing.unpack(packed, num_groups, name="x"), numbers)


@pytest.mark.parametrize(("text", "limit"), [("2:4", 0.67), ("1:4", 0.5), ("4:8", 0.8), ("1:2", 0.5)])
def test_packing_stays_near_the_bound(text, limit):
    packing = Packing(Pattern.parse(text))
    assert packing.pattern.bits_per_weight <= packing.bits_per_weight <= limit


def test_three_digits_of_base_six_make_a_byte_lowest_first():
    packing = Packing(Pattern.parse("2:4"))
    assert packing.pack(torch.tensor([1, 2, 3, 4], dtype=torch.uint8)).tolist() == [1 + 6 * 2 + 36 * 3, 4]


def test_a_byte_that_stands_for_no_mask_is_refused():
    with pytest.raises(CheckpointError, match="stand for no mask"):
        Packing(Pattern.parse("2:4")).unpack(torch.tensor([216], dtype=torch.uint8), 3, name="x")


def test_another_number_of_bytes_is_refused():
    with pytest.raises(CheckpointError, match="take 2"):
        Packing(Pattern.parse("2:4")).unpack(torch.zeros(3, dtype=torch.uint8), 4, name="x")


def test_bits_are_those_of_the_published_files():
    numbers = torch.tensor([0, 1], dtype=torch.uint8)  # 1100 1010
    assert bits(Pattern.parse("2:4"), numbers).tolist() == [202]


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("num_groups", [1, 2, 3, 64])
def test_bits_equal_packbits_of_the_mask(text, num_groups):
    pattern = Pattern.parse(text)
    numbers = random_numbers(pattern, num_groups, seed=num_groups)
    mask = pattern.mask(numbers, (num_groups, pattern.group)).numpy()
    assert np.array_equal(bits(pattern, numbers), np.packbits(mask.reshape(-1)))


@pytest.mark.parametrize(
    ("weights", "bitmap_mb", "base6_mb"), [(6_476_005_376, 809.5, 539.7), (6_979_321_856, 872.4, 581.6)]
)
def test_sizes_of_published_models_are_those_of_the_paper_page(weights, bitmap_mb, base6_mb):
    assert weights / 8e6 == pytest.approx(bitmap_mb, abs=0.05)
    assert Packing(Pattern.parse("2:4")).num_bytes(weights // 4) / 1e6 == pytest.approx(base6_mb, abs=0.05)
