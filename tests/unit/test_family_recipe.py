"""A family recipe: every member is a compress recipe, and mistakes name the member and the line."""

import pytest

from niwaki.errors import RecipeError
from niwaki.recipe.family import FamilyRecipe, starter
from niwaki.recipe.kinds import load_recipe, parse_recipe
from niwaki.recipe.model_size import Size
from niwaki.recipe.write import commented, dump

SMALLEST = "kind: family\nteacher: sapling\nmembers:\n"


def recipe(members="  - to: 50%\n  - {to: 25%, tokens: 50M}\n", before=""):
    return parse_recipe(before + SMALLEST + members, name="f.yaml")


def single(read, index, **changes):
    words = {"to": Size(fraction=0.5), "teacher": "cut", "distill_teacher": None} | changes
    return read.compress_recipe(index, **words)


def test_it_reads_back_from_what_it_writes():
    assert isinstance(recipe(), FamilyRecipe)
    for read in (recipe(), starter()):
        assert parse_recipe(dump(read), name="f.yaml") == read
        assert parse_recipe(commented(read), name="f.yaml") == read
    assert [line for line in commented(recipe()).splitlines() if line and "#" not in line] == ["kind: family"]


def test_a_member_gets_the_shared_sections_and_its_own_words_over_them():
    shared = "score: {num_samples: 7}\nchoose: {max_candidates: 3, tolerance: 9%}\n"
    shared += "distill: {learning_rate: 3e-4}\n"
    own = "  - {to: 25%, tokens: 50M, choose: {max_candidates: 5}, distill: {learning_rate: 2e-4}}\n"
    read = recipe("  - to: 50%\n" + own, before=shared)
    first, second = single(read, 0), single(read, 1, distill_teacher="teaches")
    assert (first.teacher, first.distill.teacher, second.distill.teacher) == ("cut", None, "teaches")
    assert first.score.num_samples == second.score.num_samples == 7
    assert (first.choose.max_candidates, second.choose.max_candidates) == (3, 5)
    assert first.choose.tolerance == second.choose.tolerance == 0.09
    assert (first.distill.learning_rate, second.distill.learning_rate) == (3e-4, 2e-4)
    assert (first.distill.tokens, second.distill.tokens) == (100_000_000, 50_000_000)


def test_a_shared_tolerance_does_not_reach_an_interval():
    read = recipe("  - to: {low: 1M, high: 2M}\n", before="choose: {tolerance: 9%}\n")
    assert single(read, 0, to=read.members[0].to).choose.tolerance is None


def test_folders_say_number_and_size():
    members = "  - to: 62.5%\n  - to: 4B\n  - to: 8GB\n  - to: {low: 1.5B, high: 2B}\n"
    assert recipe(members).folders == ("1-62.5pct", "2-4B", "3-8GB", "4-1.5B-2B")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("  - {to: 50%, cut_form: teacher}\n", r"f.yaml:4: members.0.cut_form: .*Did you mean 'cut_from'\?"),
        ("  - {to: 50%, learn_from: master}\n", r"f.yaml:4: members.0.learn_from: 'master' is not one of"),
        ("  - to: 50%\n  - {tokens: 1M}\n", r"f.yaml:5: members.1.to: this key is required"),
        ("  - {to: 50%, choose: {axis: [ffn]}}\n", r"member 1: choose.axis: .*Did you mean 'axes'\?"),
        ("  - {to: 50%, distill: {warmupp: 3}}\n", r"member 1: distill.warmupp: .*Did you mean 'warmup'\?"),
        ("  - to: 50%\n  - {to: 25%, tokens: 10}\n", r"member 2: distill: tokens \(10\) do not fill"),
        ("  - {to: 50%, choose: {to: 4B}}\n", r"members.0: choose.to has no place in a member"),
        ("  - {to: 50%, distill: {tokens: 4M}}\n", r"Write its own `tokens`"),
        ("  - {to: 50%, distill: {teacher: big}}\n", r"Write its own `learn_from`"),
        ("  []\n", r"a family has at least one member"),
    ],
)
def test_mistakes_in_members_are_named(members, said):
    with pytest.raises(RecipeError, match=said):
        recipe(members)


def test_mistakes_in_shared_sections_are_named():
    with pytest.raises(RecipeError, match=r"choose.to has no place in a family"):
        recipe(before="choose: {to: 50%}\n")
    with pytest.raises(RecipeError, match=r"distill.teacher has no place in a family"):
        recipe(before="distill: {teacher: big}\n")
    with pytest.raises(
        RecipeError, match=r"f.yaml:4: members: .*choose.max_candidate: .*'max_candidates'"
    ) as error:
        recipe(before="choose: {max_candidate: 2}\n")
    assert "member 2" not in str(error.value)


def test_the_recipes_that_come_with_niwaki_have_their_kinds(tmp_path):
    (tmp_path / "a.yaml").write_text(dump(starter()))
    assert isinstance(load_recipe(tmp_path / "a.yaml"), FamilyRecipe)
