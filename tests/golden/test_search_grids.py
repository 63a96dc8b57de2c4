"""The candidates of Minitron's two searches (Tables 12 and 19), from its grids and nothing else."""

import pytest
from transformers import AutoConfig

from niwaki.ground.family import family_of
from niwaki.pruning.architecture import Budget, candidates

TEACHER = {"layer": 32, "hidden": 6144, "ffn": 24576, "kv": 8, "group": 6, "dim": 128, "vocab": 256000}
GRID = {"layer": [29, 30, 31, 32], "ffn_ratio": [2.5, 3, 3.5, 4]}
GRID_8B = GRID | {"heads": [32, 48], "hidden": [4096, 4608, 5120, 5632, 6144]}
GRID_4B = GRID | {"heads": [24, 32, 48], "hidden": [2560, 3072, 3584, 4096, 4608]}

TABLE_19 = {  # (layers, heads, MLP hidden, embedding): parameters
    (32, 32, 12800, 5120): 8_494_131_200,
    (32, 32, 13824, 4608): 7_946_707_968,
    (32, 48, 11520, 4608): 7_871_210_496,
    (32, 48, 16384, 4096): 8_271_699_968,
    (31, 32, 12800, 5120): 8_310_609_920,
    (31, 32, 16128, 4608): 8_430_345_216,
    (31, 48, 13824, 4608): 8_357_207_040,
    (31, 48, 16384, 4096): 8_078_745_600,
    (30, 32, 12800, 5120): 8_127_088_640,
    (30, 32, 16128, 4608): 8_234_505_216,
    (30, 48, 13824, 4608): 8_163_726_336,
    (30, 48, 16384, 4096): 7_885_791_232,
    (29, 32, 12800, 5120): 7_943_567_360,
    (29, 32, 16128, 4608): 8_038_665_216,
    (29, 48, 13824, 4608): 7_970_245_632,
}
WITHIN_5_PERCENT_OF_8B = {
    (31, 32, 13824, 4608),
    (32, 32, 16384, 4096),
    (32, 48, 14336, 4096),
    (31, 48, 11520, 4608),
    (29, 48, 16384, 4096),
}
FOUR_B = {
    (32, 48, 8960, 2560): 3_953_464_320,
    (31, 48, 8960, 2560): 3_870_878_720,
    (32, 32, 10240, 2560): 3_827_635_200,
    (32, 48, 10240, 2560): 4_163_179_520,
    (31, 48, 10240, 2560): 4_074_040_320,
    (30, 48, 10240, 2560): 3_984_901_120,
    (29, 48, 10240, 2560): 3_895_761_920,
    (32, 24, 7680, 3072): 3_888_519_168,
    (31, 24, 7680, 3072): 3_816_155_136,
    (32, 32, 7680, 3072): 4_089_845_760,
    (31, 32, 7680, 3072): 4_011_190_272,
    (30, 32, 7680, 3072): 3_932_534_784,
    (29, 32, 7680, 3072): 3_853_879_296,
    (32, 24, 9216, 3072): 4_190_509_056,
    (31, 24, 9216, 3072): 4_108_707_840,
    (30, 24, 9216, 3072): 4_026_906_624,
    (29, 24, 9216, 3072): 3_945_105_408,
    (29, 32, 9216, 3072): 4_127_557_632,
}


@pytest.fixture(scope="module")
def family():
    return family_of(AutoConfig.for_model("nemotron"))


def search(family, grid, budget):
    found = candidates(family, TEACHER, grid=grid, budget=budget, tied=False)
    shapes = {(s["layer"], s["kv"] * s["group"], s["ffn"], s["hidden"]): s for s in found}
    assert len(shapes) == len(found)
    return {shape: family.count(sizes, tied=False) for shape, sizes in shapes.items()}


def test_the_15_candidates_for_8b(family):
    assert search(family, GRID_8B, Budget.between(7_800_000_000, 8_500_000_000)) == TABLE_19


def test_8b_give_or_take_5_percent_are_18_others(family):
    found = search(family, GRID_8B, Budget.around(8_000_000_000, tolerance=0.05))
    assert (
        set(found) == set(TABLE_19) - {(32, 32, 12800, 5120), (31, 32, 16128, 4608)} | WITHIN_5_PERCENT_OF_8B
    )


def test_the_18_candidates_for_4b(family):
    assert search(family, GRID_4B, Budget.around(4_000_000_000, tolerance=0.05)) == FOUR_B
