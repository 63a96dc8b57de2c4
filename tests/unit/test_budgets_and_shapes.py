"""Budgets and the shapes that fit them."""

import re

import pytest
from transformers import AutoConfig

from niwaki.errors import BudgetError, FamilyError, RecipeError
from niwaki.ground.family import family_of
from niwaki.pruning.architecture import Budget, alignment, candidates, usual_axes
from niwaki.pruning.limits import Limit

TEACHER = {"layer": 8, "hidden": 256, "ffn": 768, "kv": 4, "group": 2, "dim": 32, "vocab": 512}


@pytest.fixture(scope="module")
def llama():
    return family_of(AutoConfig.for_model("llama"))


def count(family, sizes):
    return family.count(sizes, tied=True)


def half(family):
    return Budget.around(count(family, TEACHER) // 2)


@pytest.mark.parametrize(
    ("size", "multiple"),
    [(40, 8), (128, 8), (256, 16), (288, 16), (512, 32), (1024, 64), (2048, 128), (4096, 128), (14336, 128)],
)
def test_alignment_grows_with_the_size(size, multiple):
    assert alignment(size) == multiple


def test_a_budget_in_bytes_depends_on_the_dtype():
    assert Budget.of_bytes(2_000, parameter_bytes=2, tolerance=0.1) == Budget(900, 1100, 1000)


def test_an_empty_interval_is_refused():
    with pytest.raises(BudgetError, match="2 to 1 is empty"):
        Budget.between(2, 1)


def test_non_embedding_parameters_are_those_of_the_layers(llama):
    attention, mlp, norms = 2 * 256 * 256 + 2 * 256 * 128, 3 * 256 * 768, 2 * 256
    budget = Budget.around(1, unit="non-embedding parameters")
    assert budget.measure(llama, TEACHER, tied=True) == 8 * (attention + mlp + norms)


def test_automatic_shapes_fit_align_keep_heads_and_spread_over_depth(llama):
    budget = half(llama)
    shapes = candidates(llama, TEACHER, budget=budget, tied=True)
    assert len(shapes) == 12
    for shape in shapes:
        assert budget.low <= count(llama, shape) <= budget.high
        assert shape["hidden"] % 16 == 0
        assert shape["ffn"] % 32 == 0
        assert (shape["kv"], shape["group"], shape["vocab"]) == (4, 2, 512)
    assert [shape["layer"] for shape in shapes[:6]] == [8, 7, 6, 5, 4, 8]
    assert len({tuple(shape.items()) for shape in shapes}) == 12


def test_the_first_shape_of_a_depth_is_cut_most_evenly(llama):
    first, *others = [s for s in candidates(llama, TEACHER, budget=half(llama), tied=True) if s["layer"] == 8]

    def unevenness(shape):
        kept = (shape["hidden"] / 256, shape["ffn"] / 768, 1)
        return max(kept) / min(kept)

    assert others
    assert all(unevenness(first) <= unevenness(other) for other in others)


def test_only_the_named_axes_are_cut(llama):
    shapes = candidates(llama, TEACHER, budget=half(llama), tied=True, axes=("hidden", "ffn", "group"))
    assert {shape["layer"] for shape in shapes} == {8}
    assert {shape["group"] for shape in shapes} == {1, 2}


def test_a_family_that_ties_hidden_to_heads_gets_shapes_it_can_express():
    phi3 = family_of(AutoConfig.for_model("phi3"))
    shapes = candidates(phi3, TEACHER, budget=half(phi3), tied=True)
    assert any(shape["hidden"] < 256 for shape in shapes)
    for shape in shapes:
        phi3.check(shape)


def test_grid_points_that_the_family_cannot_express_are_left_out():
    phi3 = family_of(AutoConfig.for_model("phi3"))
    budget = Budget.between(1, count(phi3, TEACHER))
    grid = {"hidden": [192, 256], "heads": [8], "layer": [4]}
    assert [s["hidden"] for s in candidates(phi3, TEACHER, budget=budget, tied=True, grid=grid)] == [256]


def test_an_impossible_budget_names_the_smallest_and_the_nearest_size(llama):
    with pytest.raises(BudgetError) as raised:
        candidates(llama, TEACHER, budget=Budget.around(1000), tied=True)
    smallest = {**TEACHER, "layer": 4, "hidden": 16, "ffn": 32}
    assert f"smallest reachable is {count(llama, smallest):,}" in str(raised.value)
    assert f"Ask for {count(llama, smallest):,}" in raised.value.remedy
    grid = {"layer": [4, 8]}
    between = Budget.around(int(count(llama, {**TEACHER, "layer": 8}) * 0.9))
    with pytest.raises(BudgetError) as raised:
        candidates(llama, TEACHER, budget=between, tied=True, grid=grid)
    half_depth = {**TEACHER, "layer": 4}
    assert f"below it {count(llama, half_depth):,} (layer=4 hidden=256" in str(raised.value)
    assert f"above it {count(llama, TEACHER):,} (layer=8 hidden=256" in str(raised.value)


def test_at_most_two_shapes_are_named_on_either_side_and_the_nearest_first(llama):
    grid = {"layer": [1, 2, 3, 6, 7, 8]}
    with pytest.raises(BudgetError) as raised:
        candidates(
            llama,
            TEACHER,
            budget=Budget.around(count(llama, TEACHER | {"layer": 5}), tolerance=0.01),
            tied=True,
            grid=grid,
        )
    named = [int(layer) for layer in re.findall(r"layer=(\d)", str(raised.value))]
    assert named == [3, 2, 6, 7]


def limit_on(axis, most, asked=None):
    def measure(shape):
        if asked is not None:
            asked.append(shape)
        return shape[axis]

    return Limit(axis, most, measure, lambda value: f"{value:g} units")


def test_a_shape_beyond_a_limit_makes_room_for_the_next(llama):
    every = candidates(llama, TEACHER, budget=half(llama), tied=True, limit=1000)
    allowed = [shape for shape in every if shape["hidden"] <= 200]
    assert 4 < len(allowed) < len(every)
    found = candidates(
        llama, TEACHER, budget=half(llama), tied=True, limit=4, limits=[limit_on("hidden", 200)]
    )
    assert found == allowed[:4]


def test_a_costly_limit_is_asked_no_more_than_it_must_be(llama):
    asked = []
    limits = [limit_on("hidden", 200), limit_on("layer", 8, asked)]
    assert candidates(llama, TEACHER, budget=half(llama), tied=True, limit=4, limits=limits) == asked


def test_limits_that_no_shape_keeps_name_the_nearest_and_what_would_admit_it(llama):
    with pytest.raises(BudgetError) as raised:
        candidates(llama, TEACHER, budget=half(llama), tied=True, limits=[limit_on("layer", 3)])
    assert "none of the" in raised.value.message
    assert raised.value.message.count("layer=4") == 2
    assert "has layer at most 3 units" in raised.value.message
    assert raised.value.remedy.startswith("Allow layer 4 units")


MIXTURE = {k: v for k, v in TEACHER.items() if k != "ffn"} | {"expert": 8, "effn": 128}


def test_unless_told_otherwise_depth_hidden_and_neurons_go_and_heads_where_they_must():
    usual = {name: usual_axes(family_of(AutoConfig.for_model(name))) for name in ("llama", "mixtral", "phi3")}
    assert usual == {
        "llama": ("layer", "hidden", "ffn"),
        "mixtral": ("layer", "hidden", "effn"),
        "phi3": ("layer", "hidden", "ffn", "kv", "group"),
    }
    assert usual_axes(family_of(AutoConfig.for_model("gpt_neox"))) == ("layer", "hidden", "ffn", "kv")


def test_experts_are_cut_by_eighths_down_to_those_a_token_visits():
    mixtral = family_of(AutoConfig.for_model("mixtral"))
    full = mixtral.count(MIXTURE, tied=True)
    budget = Budget.around(int(0.75 * full), tolerance=0.15)
    arguments = {"budget": budget, "tied": True, "axes": ("expert", "effn"), "limit": 99}
    found = {s["expert"] for s in candidates(mixtral, MIXTURE, **arguments)}
    assert found == {8, 7, 6, 5}
    found = {s["expert"] for s in candidates(mixtral, MIXTURE, fewest_experts=6, **arguments)}
    assert found == {8, 7, 6}
    for shape in candidates(mixtral, MIXTURE, **arguments):
        assert all(shape[axis] == MIXTURE[axis] for axis in ("layer", "hidden", "kv", "group"))


@pytest.mark.parametrize(
    ("model_type", "axes", "named"),
    [
        ("phi3", ("layer", "hidden", "ffn"), "phi3 has hidden = kv .* together.* Add kv or group"),
        ("phi3", ("ffn", "group"), "name group without hidden"),
        ("gpt_neox", ("hidden",), "name hidden without kv: .*Add kv, or leave hidden out"),
        ("gpt_neox", ("layer", "group"), "gpt_neox has no group"),
        (
            "mixtral",
            ("hidden", "ffn"),
            "mixtral has no ffn.*Choose from layer, hidden, kv, group, expert, effn",
        ),
    ],
)
def test_axes_that_the_family_lacks_or_cuts_only_together_are_named(model_type, axes, named):
    family = family_of(AutoConfig.for_model(model_type))
    sizes = MIXTURE if model_type == "mixtral" else TEACHER
    with pytest.raises(RecipeError, match=named):
        candidates(family, sizes, budget=half(family) if sizes is TEACHER else None, tied=True, axes=axes)


def test_coupled_axes_cut_the_named_heads_only():
    phi3 = family_of(AutoConfig.for_model("phi3"))
    third = Budget.around(count(phi3, TEACHER) // 3)
    for axis, other in (("kv", "group"), ("group", "kv")):
        shapes = candidates(phi3, TEACHER, budget=third, tied=True, axes=("hidden", "ffn", axis))
        assert any(shape[axis] < TEACHER[axis] for shape in shapes)
        assert all(shape[other] == TEACHER[other] for shape in shapes)


def test_a_grid_of_which_the_family_can_express_nothing_says_why():
    phi3 = family_of(AutoConfig.for_model("phi3"))
    with pytest.raises(FamilyError, match=r"hidden must equal kv \* group \* dim.*Use hidden=256"):
        candidates(phi3, TEACHER, budget=half(phi3), tied=True, grid={"hidden": [192, 224]})


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ({"hidden": [512]}, "hidden=512 is not between 1 and the model's 256"),
        ({"width": [128]}, "'width' of the grid is unknown"),
        ({"heads": [6]}, "heads=6 with kv=4"),
        ({"ffn_ratio": [4]}, "ffn=1024 is not between"),
        ({"ffn_ratio": [2.001]}, "ffn_ratio=2.001 with hidden=256"),
    ],
)
def test_a_grid_value_that_the_model_cannot_take_is_named(llama, grid, named):
    with pytest.raises(RecipeError, match=named):
        candidates(llama, TEACHER, budget=half(llama), tied=True, grid=grid)
