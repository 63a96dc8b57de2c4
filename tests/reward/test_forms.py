"""Public column forms, the similarity filter, splits by prompt, and what is wrong with bad rows."""

import math

import pytest

from niwaki.errors import DataError
from niwaki.reward.data import Source, collect_pairs, collect_ratings, objectives_of
from niwaki.reward.forms import Skipped, dialogue, form_of, overall_strength, read_pair, read_ratings, turns
from niwaki.reward.records import prompt_key, read_rows, side_of
from niwaki.sapling import answers

from .conftest import write_rows

HELPSTEER2 = {
    "prompt": "Name a tree.",
    "response_1": "Pine.",
    "response_2": "Stone.",
    "preference_strength": -2,
    "three_most_similar_preferences": [{"strength": -2}, {"strength": -1}, {"strength": -3}],
}
HH = "\n\nHuman: Name a tree.\n\nAssistant: Which?\n\nHuman: Any.\n\nAssistant: "


def pair_of(row, **options):
    return read_pair(row, "row 1", form_of(row, "row 1"), **options)


def test_a_negative_strength_means_that_the_first_answer_is_better():
    pair = pair_of(HELPSTEER2)
    assert (pair.chosen, pair.rejected, pair.strength) == ("Pine.", "Stone.", 2)
    swapped = HELPSTEER2 | {"preference_strength": 2, "response_1": "Stone.", "response_2": "Pine."}
    assert (pair_of(swapped).chosen, pair_of(swapped).strength) == ("Pine.", 2)


def test_ties_are_dropped_or_soft():
    tie = HELPSTEER2 | {"preference_strength": 0, "three_most_similar_preferences": []}
    assert pair_of(tie) == Skipped("row 1", "a tie")
    assert pair_of(tie, ties="soft").q == 0.5


def test_annotators_who_disagree_are_filtered():
    spread = HELPSTEER2 | {
        "three_most_similar_preferences": [{"strength": -3}, {"strength": 0}, {"strength": -2}]
    }
    assert pair_of(spread) == Skipped("row 1", "the annotators disagree")


@pytest.mark.parametrize(
    "people, overall",
    [
        ([-1, -2, -2], -2),
        ([-3, -3, 3, -2, 2], -3),
        ([1, 1, 2, -3], 1),
        ([-3, 0, 3], "the annotators disagree"),
        ([-100, 2, 2, 3], 2),
        ([-100, -100], "no annotator found a valid answer"),
    ],
)
def test_the_three_most_similar_annotations_count(people, overall):
    assert overall_strength(people) == overall


def test_dialogues_and_turns_become_messages():
    row = {"chosen": HH + "Pine.", "rejected": HH + "Stone."}
    assert form_of(row, "x") == "hh"
    pair = pair_of(row)
    assert [m["role"] for m in pair.prompt] == ["user", "assistant", "user"]
    assert (pair.chosen, pair.rejected) == ("Pine.", "Stone.")
    assert dialogue(HH + "Pine.")[-1] == {"role": "assistant", "content": "Pine."}
    marked = "Hello\n<extra_id_1>Assistant\nHi\n<extra_id_1>User\nName a tree."
    assert [m["content"] for m in turns(marked, "x")] == ["Hello", "Hi", "Name a tree."]


def test_conversations_that_part_early_are_named():
    a = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "x"}]
    b = [{"role": "user", "content": "B"}, {"role": "assistant", "content": "y"}]
    assert "part before" in pair_of({"chosen": a, "rejected": b}).reason


def test_shp_and_annotators():
    shp = {"history": "Name a tree.", "human_ref_A": "Stone.", "human_ref_B": "Pine.", "labels": 0}
    assert pair_of(shp).chosen == "Pine."
    people = {
        "prompt": "Tree?",
        "response_1": "Pine.",
        "response_2": "Stone.",
        "annotations": [-2, -1, -100, -2],
    }
    assert (pair_of(people).chosen, pair_of(people).strength) == ("Pine.", 2)


def test_a_probability_below_a_half_swaps_the_answers():
    pair = pair_of({"prompt": "Tree?", "chosen": "Stone.", "rejected": "Pine.", "q": 0.25})
    assert (pair.chosen, pair.q) == ("Pine.", 0.75)


def test_ratings_with_missing_attributes():
    row = {
        "messages": [*turns("Tree?", "x"), {"role": "assistant", "content": "Pine."}],
        "a": 3,
        "b": None,
        "c": -100,
    }
    (rating,) = read_ratings(row, "x", form_of(row, "x"))
    assert rating.ratings == {"a": 3}
    rated = {
        "annotations": {"honesty": {"Rating": "4"}, "helpfulness": {"Rating": "N/A"}},
        "overall_score": 7,
    }
    ultra = {
        "instruction": "Tree?",
        "completions": [{"response": "Pine.", **rated}, {"response": "x", **rated}],
    }
    first, second = read_ratings(ultra, "x", form_of(ultra, "x"))
    assert first.ratings == {"overall_score": 7, "honesty": 4}
    assert (first.row, second.row) == ("x#0", "x#1")


def test_unknown_columns_are_told():
    with pytest.raises(DataError, match=r"row 9: the columns \(answer, question\)"):
        form_of({"question": "", "answer": ""}, "row 9")


def test_a_nan_and_an_outlier_are_refused_by_row(tmp_path):
    row = {"prompt": "Tree?", "response": "Pine.", "honesty": 3}
    nan = write_rows(tmp_path / "nan.jsonl", [row, row | {"honesty": math.nan}])
    with pytest.raises(DataError, match=r"nan.jsonl:2, honesty: nan is not finite"):
        collect_ratings([Source(str(nan))])
    high = write_rows(tmp_path / "high.jsonl", [row, row | {"honesty": 7}])
    with pytest.raises(DataError, match=r"high.jsonl:2: honesty is 7, outside of 0 to 4"):
        collect_ratings([Source(str(high), scale=(0, 4))])


def test_swapped_columns_are_found_by_their_scores(tmp_path):
    row = {"prompt": "Tree?", "chosen": "Stone.", "rejected": "Pine.", "score_chosen": 1, "score_rejected": 5}
    file = write_rows(tmp_path / "swapped.jsonl", [row | {"prompt": f"Tree {i}?"} for i in range(4)])
    with pytest.raises(DataError, match=r"in 4 of 4 rows, first swapped.jsonl:1"):
        collect_pairs([Source(str(file))])
    right = row | {"score_chosen": 6}
    file = write_rows(tmp_path / "one.jsonl", [row, right, right])
    assert "in 1 of 3 rows, first one.jsonl:1" in collect_pairs([Source(str(file))]).warnings[0]


def test_swapped_prompt_and_answer_are_found_by_their_roles():
    user, assistant = {"role": "user", "content": "Tree?"}, {"role": "assistant", "content": "Pine."}
    with pytest.raises(DataError, match="row 1: the prompt ends with 'assistant'"):
        pair_of({"prompt": [assistant], "chosen": "a", "rejected": "b"})
    with pytest.raises(DataError, match="row 1: an answer is by 'user'"):
        pair_of({"prompt": "Tree?", "chosen": [user], "rejected": [assistant]})


def test_an_objective_without_labels_is_named(ratings):
    with pytest.raises(DataError, match="objective 'safety' has no labels"):
        objectives_of(ratings, ["helpfulness", "safety"])
    assert objectives_of(ratings) == ("helpfulness", "verbosity")


def test_a_prompt_is_on_one_side_whatever_its_white_space():
    a, b = (prompt_key([{"role": "user", "content": text}]) for text in ("Name  a tree.", "Name a\ntree."))
    assert a == b
    sides = [side_of(f"{(2 * i + 1) * 2**52 // 2000:013x}", test=0.1, validation=0.2) for i in range(1000)]
    assert [sides.count(s) for s in ("test", "validation", "train")] == [100, 200, 700]


def test_counts_say_what_was_not_used(tmp_path):
    rows = [HELPSTEER2 | {"prompt": f"{i}", "preference_strength": i % 3 - 2} for i in range(9)]
    file = write_rows(tmp_path / "hs.jsonl", [r | {"three_most_similar_preferences": []} for r in rows])
    found = collect_pairs([Source(str(file), name="hs")])
    assert found.summary()["skipped"] == {"a tie": 3}
    assert found.summary()["by_source"] == {"hs": 6}


def test_a_row_with_an_empty_answer_is_left_out_and_named():
    row = {"prompt": "Tree?", "chosen": "Pine.", "rejected": " "}
    assert pair_of(row) == Skipped("row 1", "an answer is empty")
    assert pair_of(row | {"rejected": "Pine. "}) == Skipped("row 1", "both answers are the same")


def test_a_domain_tells_rows_of_one_source_apart(tmp_path):
    rows = [
        {"prompt": f"p{i}", "chosen": "a", "rejected": "b"} | ({"domain": "law"} if i else {}) for i in (0, 1)
    ]
    found = collect_pairs([Source(str(write_rows(tmp_path / "x.jsonl", rows)), name="mine")])
    assert [pair.source for pair in found.records] == ["mine", "mine, law"]


def test_folders_are_read_by_split_where_files_are_named_by_it(tmp_path):
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    for name in ("train", "test"):
        write_rows(tmp_path / f"{name}.jsonl", [row | {"from": name}])
    assert [r["from"] for _, r in read_rows(str(tmp_path), split="test")] == ["test"]
    (tmp_path / "more").mkdir()
    for name in ("a", "b"):
        write_rows(tmp_path / "more" / f"{name}.jsonl", [row | {"from": name}])
    assert [r["from"] for _, r in read_rows(str(tmp_path / "more"), split="train")] == ["a", "b"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        list(read_rows(str(tmp_path / "none")))


def test_made_data_have_both_domains_on_every_side(tmp_path):
    """The functions' own split is by the same hash as that of a recipe."""
    pairs, _ = answers.write(tmp_path, num_pairs=300, seed=0)
    found = collect_pairs([Source(str(pairs), name="made")])
    for side in found.sides(test=0.1, validation=0.1).values():
        assert {pair.source for pair in side} == {"made, plain", "made, explained"}
