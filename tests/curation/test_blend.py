"""The eight blends of arXiv 2504.13941 from their recipe files, against the published numbers."""

import json
from collections import Counter
from pathlib import Path

import pytest

from niwaki.curation.blend import draw, largest_remainder, largest_without_repeating, plan, shares, sizes_of
from niwaki.errors import DataError, RecipeError
from niwaki.recipe.curate import Blend
from niwaki.recipe.load import load, parse
from niwaki.verify.question import Question, read_questions, write_questions

BLENDS = Path(__file__).parents[2] / "recipes" / "blends"
SIZES = {
    "mmlu": 99_842,
    "syn-qa": 192_930,
    "natural-reasoning": 100_000,
    "numinamath": 87_350,
    "persona-math": 100_000,
    "math": 8_523,
}
WEIGHTS = {
    "math-up": [0.086427, 0.167008, 0.086564, 0.294328, 0.336953, 0.028719],
    "gpr-up": [0.167771, 0.324193, 0.168036, 0.151624, 0.173582, 0.014794],
    "mcq-up": [0.225075, 0.434925, 0.114914, 0.100378, 0.114914, 0.009794],
    "open-up": [0.115948, 0.224052, 0.223069, 0.194850, 0.223069, 0.019012],
    "nd": [0.169613, 0.327753, 0.169882, 0.148392, 0.169882, 0.014479],
    "only-math": [0, 0, 0, 0.445952, 0.510535, 0.043513],
    "only-gpr": [0.254198, 0.491201, 0.254601, 0, 0, 0],
    "score": [0.1296, 0.1731, 0.1683, 0.1981, 0.1684, 0.1625],
}
COUNTS = {
    "nd": [5428, 10488, 5436, 4749, 5436, 463],
    "math-up": [2766, 5344, 2770, 9419, 10782, 919],
    "gpr-up": [5369, 10374, 5377, 4852, 5555, 473],
    "mcq-up": [7202, 13918, 3677, 3212, 3677, 314],
    "open-up": [3710, 7170, 7138, 6235, 7138, 609],
}
LARGEST = {"math-up": 296_777, "gpr-up": 576_097, "mcq-up": 443_593, "open-up": 448_292, "nd": 588_645}


def shares_of(name):
    blend = load(BLENDS / f"{name}.yaml", Blend)
    return blend, shares(SIZES, [(group.share, group.sets) for group in blend.groups])


def test_the_eight_files():
    assert {path.stem for path in BLENDS.glob("*.yaml")} == set(WEIGHTS)
    assert sum(SIZES.values()) == 588_645


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name):
    _, found = shares_of(name)
    assert [round(float(found.get(one, 0)), 6) for one in SIZES] == WEIGHTS[name]
    assert sum(found.values()) == 1


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_32000_rows(name):
    blend, found = shares_of(name)
    rows = largest_remainder(32_000, found)
    assert [rows[one] for one in SIZES] == COUNTS[name]
    assert blend.rows == 32_000


@pytest.mark.parametrize("name", LARGEST)
def test_largest_without_repeating(name):
    _, found = shares_of(name)
    assert largest_without_repeating(SIZES, found) == LARGEST[name]


def test_general_share():
    for name, general in (("nd", 0.667248), ("gpr-up", 0.66), ("mcq-up", 0.774914), ("open-up", 0.563069)):
        _, found = shares_of(name)
        assert round(float(sum(found[one] for one in list(SIZES)[:3])), 6) == general


def test_repetitions_are_said_and_refused_above_the_limit():
    _, math_up = shares_of("math-up")
    with pytest.raises(DataError, match=r"1\.98 times each; the limit is 1\. Ask for at most 296,777 rows"):
        plan(SIZES, math_up, num_rows=588_645)
    parts = {part.name: part for part in plan(SIZES, math_up, num_rows=588_645, most_repetitions=2)}
    assert round(parts["numinamath"].repetitions, 3) == 1.983
    assert round(parts["mmlu"].repetitions, 2) == 0.51
    _, score = shares_of("score")
    parts = {p.name: p for p in plan(SIZES, score, num_rows=588_645, most_repetitions=12)}
    assert round(parts["math"].repetitions, 1) == 11.2


def test_rounding_sums_to_the_rows_and_is_never_off_by_one():
    _, found = shares_of("gpr-up")
    for num_rows in (1, 7, 97, 1000, 12_345):
        rows = largest_remainder(num_rows, found)
        assert sum(rows.values()) == num_rows
        assert all(abs(rows[name] - float(share) * num_rows) < 1 for name, share in found.items())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "questions.jsonl"
    write_questions(
        path, (Question(f"{s}-{n}", f"{s} {n}é?", "1", source=s) for n in range(50) for s in "ab")
    )
    return path


def test_a_mixture_is_exact_seeded_and_takes_all_before_it_repeats(file, tmp_path):
    sizes = sizes_of(file)
    assert sizes == {"a": 50, "b": 50}
    parts = plan(sizes, shares(sizes, [(0.7, ["a"]), (0.3, ["b"])]), num_rows=180, most_repetitions=3)
    record = draw(file, parts, tmp_path / "train.jsonl", seed=1)
    rows = list(read_questions(tmp_path / "train.jsonl"))
    assert Counter(q.source for q in rows) == {"a": 126, "b": 54}
    times = Counter(q.id for q in rows)
    assert {times[f"a-{n}"] for n in range(50)} == {2, 3}
    assert {times[f"b-{n}"] for n in range(50)} == {1, 2}
    assert [q.source for q in rows[:10]] != ["a"] * 10
    assert json.loads((tmp_path / "blend.json").read_text()) == json.loads(json.dumps(record))
    draw(file, parts, tmp_path / "again.jsonl", seed=1)
    draw(file, parts, tmp_path / "other.jsonl", seed=2)
    texts = [(tmp_path / name).read_text("utf-8") for name in ("train.jsonl", "again.jsonl", "other.jsonl")]
    assert texts[0] == texts[1] != texts[2]


def test_what_cannot_be_blended(file):
    sizes = sizes_of(file)
    for groups, says in (
        ([(0.7, ["a"]), (0.2, ["b"])], "sum to 0.9"),
        ([(0.7, ["a"]), (0.3, ["a", "b"])], "'a' is in two groups"),
        ([(1.0, ["c"])], "'c' has no rows"),
    ):
        with pytest.raises(DataError, match=says):
            shares(sizes, groups)
    with pytest.raises(RecipeError, match=r"sum to 0\.9, not to 100%"):
        parse("groups: [{share: 90%, sets: [a]}]", Blend, name="blend")
    with pytest.raises(RecipeError, match="set 'a' is in two groups"):
        parse("groups: [{share: 50%, sets: [a]}, {share: 50%, sets: [a]}]", Blend, name="blend")
