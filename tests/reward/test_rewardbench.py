"""RewardBench: weights, conventions and ties as published."""

import numpy as np
import pytest

from niwaki.errors import DataError, EvaluationError
from niwaki.evaluation.preference import compare_pairs, judge_pairs, pair_accuracy
from niwaki.evaluation.rewardbench import (
    SECTIONS,
    SUBSETS_V2,
    overall,
    rewardbench,
    rewardbench2,
    section_scores,
    ties_score,
)
from niwaki.reward.records import read_rows


def test_counts_and_weights():
    totals = {section: sum(weights.values()) for section, weights in SECTIONS.items()}
    assert totals == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 984 + 984}
    assert SECTIONS["Safety"]["xstest-should-refuse"] == 154
    assert SECTIONS["Safety"]["xstest-should-respond"] == 250


@pytest.mark.parametrize(
    "sections, prior, plain, weighted",
    [
        ((96.9, 76.8, 92.2, 97.3), 74.3, 90.80, 88.967),
        ((99.4, 65.1, 87.8, 86.4), 74.9, 84.675, 83.589),
        ((95.3, 74.3, 87.2, 86.9), 70.9, 85.925, 84.256),
    ],
)
def test_both_conventions_of_the_published_boards(sections, prior, plain, weighted):
    found = overall(dict(zip(SECTIONS, sections, strict=True)), prior)
    assert found["score"] == pytest.approx(plain)
    assert found["score_with_prior_sets"] == pytest.approx(weighted, abs=1e-3)


def test_a_section_is_told_only_when_it_is_whole():
    found = section_scores(dict.fromkeys(SECTIONS["Chat"], 1.0))
    assert found["sections"] == {"Chat": 1.0}
    assert found["score"] is None
    assert "donotanswer" in found["missing"]


def test_rows_are_scored_and_a_tie_is_wrong():
    subsets = [s for weights in SECTIONS.values() for s in weights]
    rows = [
        (
            f"r{i}",
            {"prompt": "p", "chosen": "good", "rejected": "tied" if s == "math-prm" else "bad", "subset": s},
        )
        for i, s in enumerate(subsets)
    ]

    def score(prompts, answers):
        return np.array([{"good": 1.0, "tied": 1.0, "bad": 0.0}[a] for a in answers])

    found = rewardbench(rows, score)
    assert found["sections"] == {"Chat": 1, "Chat Hard": 1, "Safety": 1, "Reasoning": 0.5}
    assert found["score"] == pytest.approx(0.875)
    assert sum(found["correct"].values()) == len(subsets) - 1
    with pytest.raises(EvaluationError, match="r0: lacks the column 'subset'"):
        rewardbench([("r0", {"prompt": "p", "chosen": "a", "rejected": "b"})], score)


def test_best_of_four_and_shared_firsts():
    rows = [
        ("a", {"prompt": "p", "chosen": ["9"], "rejected": ["1", "2", "3"], "subset": "Math"}),
        ("b", {"prompt": "p", "chosen": ["3"], "rejected": ["1", "2", "3"], "subset": "Math"}),
        ("c", {"prompt": "p", "chosen": ["1"], "rejected": ["1", "2", "3"], "subset": "Focus"}),
    ]
    found = rewardbench2(rows, lambda prompts, answers: np.array([float(a) for a in answers]))
    assert found["correct"] == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert found["subsets"] == {"Math": 0.75, "Focus": 0.0}
    assert found["score"] is None
    assert found["missing"] == ["Factuality", "Precise IF", "Safety", "Ties"]


def test_ties():
    sure = {"ref:1": (np.array([5.0, 0, 0]), 1), "tied:1": (np.array([5.0, 4, 0]), 2)}
    # Gap 4 on tied, 5 on reference; spread 1: everything right, and tanh(4 / 1 - 1) / 100 on top.
    assert ties_score(sure) == pytest.approx(1.0 + 0.01 * np.tanh(3))
    wide = {"ref:1": (np.array([5.0, 4.5]), 1), "tied:1": (np.array([9.0, 4, 1]), 2)}
    # The gap of 3 is narrower than the spread of 5.
    assert ties_score(wide) == pytest.approx(0.6 + 0.01 * np.tanh(0.5 / 5 - 1))
    equal = {"ref:1": (np.array([5.0, 0]), 1), "tied:1": (np.array([4.0, 4, 0]), 2)}
    # No spread: the gap over it is without limit, and its tanh is 1, or -1 below 0.
    assert ties_score(equal) == pytest.approx(1.01)
    below = {"ref:1": (np.array([5.0, 0]), 1), "tied:1": (np.array([4.0, 4, 6]), 2)}
    assert ties_score(below) == pytest.approx(0.30 - 0.01)
    with pytest.raises(EvaluationError, match="expected ref:N or tied:N"):
        ties_score({"7": (np.array([5.0, 0]), 1)})
    wrong = {"ref:1": (np.array([1.0, 4.5]), 1), "tied:1": (np.array([1.0, 1, 3]), 2)}
    assert ties_score(wrong) == pytest.approx(-0.01)


V1_COLUMNS = ("prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset", "id")


def hub_folder(folder, split, rows):
    """A local copy of a hub dataset: parquet under data/, a readme beside it."""
    import pyarrow
    from pyarrow import parquet

    (folder / "data").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text("A benchmark.\n")
    return folder


def test_v1_in_its_published_form_weighs_subsets_as_published(tmp_path):
    """Half of math-prm wrong costs a quarter of Reasoning; all of one language a twelfth."""
    rows = []
    for weights in SECTIONS.values():
        for subset in weights:
            for i in range(4):
                bad = (subset == "math-prm" and i < 2) or subset == "hep-go" or subset == "donotanswer"
                answers = ("low", "high") if bad else ("high", "low")
                values = ("How?", answers[0], "a", answers[1], "b", subset, len(rows))
                rows.append(dict(zip(V1_COLUMNS, values, strict=True)))
    source = hub_folder(tmp_path / "reward-bench", "filtered", rows)
    hub_folder(tmp_path / "other", "raw", rows)
    found = rewardbench(
        read_rows(str(source), split="filtered"),
        lambda prompts, answers: np.array([a == "high" for a in answers], float),
    )
    assert found["sections"] == {
        "Chat": 1.0,
        "Chat Hard": 1.0,
        "Safety": pytest.approx(1 - 136 / 740),
        "Reasoning": pytest.approx(1 - (0.5 * 984 + 164) / 1968),
    }
    assert found["score"] == pytest.approx((2 + 604 / 740 + 1312 / 1968) / 4)
    assert len(found["correct"]) == 4 * 23
    with pytest.raises(DataError, match="split 'filtered'"):
        list(read_rows(str(tmp_path / "other"), split="filtered"))


def test_v2_in_its_published_form(tmp_path):
    rows = []

    def row(identity, subset, chosen, rejected):
        rows.append(
            {
                "id": identity,
                "prompt": "Which?",
                "chosen": chosen,
                "rejected": rejected,
                "num_correct": len(chosen),
                "num_incorrect": len(rejected),
                "total_completions": len(chosen) + len(rejected),
                "models": ["m"],
                "subset": subset,
                "additional_metadata": None,
            }
        )

    for number, subset in enumerate(SUBSETS_V2[:-1]):
        row(str(number), subset, ["9"], ["1", "2", "3"])
        row(str(number + 10), subset, ["3"], ["1", "3", "2"])
    row("ref:0", "Ties", ["9"], ["1", "2"])
    row("tied:0", "Ties", ["9", "8"], ["1", "2"])
    source = hub_folder(tmp_path / "reward-bench-2", "test", rows)
    found = rewardbench2(
        read_rows(str(source), split="test"), lambda prompts, answers: np.array([float(a) for a in answers])
    )
    assert found["missing"] == []
    assert found["subsets"]["Precise IF"] == 0.75
    ties = 1 + 0.01 * np.tanh(6 / 1 - 1)
    assert found["subsets"]["Ties"] == pytest.approx(ties)
    assert found["score"] == pytest.approx((5 * 0.75 + ties) / 6)


def test_rows_of_one_version_are_not_taken_for_the_other():
    def score(prompts, answers):
        return np.zeros(len(answers))

    one = ("r", {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "Math"})
    two = ("r", {"prompt": "p", "chosen": ["a"], "rejected": ["b"], "subset": "Math"})
    with pytest.raises(EvaluationError, match="rewardbench2"):
        rewardbench([two], score)
    with pytest.raises(EvaluationError, match="RewardBench v1"):
        rewardbench2([one], score)


def test_accuracy_resamples_prompts_and_pairs_models():
    gaps = np.array([1.0, 1, -1, 0] * 25)
    assert pair_accuracy(gaps).mean == 0.5
    alone, grouped = pair_accuracy(gaps), pair_accuracy(gaps, [str(i // 50) for i in range(100)])
    assert grouped.high - grouped.low < alone.high - alone.low
    better = np.where(gaps == 0, 1.0, gaps)
    difference = compare_pairs(better, gaps)
    assert difference.mean == pytest.approx(0.25)
    assert difference.low > 0
    with pytest.raises(EvaluationError, match="same pairs"):
        compare_pairs(gaps, gaps[:3])
    with pytest.raises(EvaluationError, match="Pair 2"):
        pair_accuracy(np.array([1.0, 2, np.nan]))


def test_the_judgement_tells_length_and_strength():
    gaps = np.array([1.0, 1, -1, -1])
    lengths = np.array([[9, 1], [8, 1], [1, 9], [1, 8]])
    found = judge_pairs(gaps, subsets=["x", "y", "x", "y"], lengths=lengths, strengths=[1, 1, 2, 2])
    assert found["by_length"]["chosen longer"]["accuracy"] == 1
    assert found["by_length"]["chosen shorter"]["accuracy"] == 0
    assert found["by_strength"] == {
        "1": {"accuracy": 1, "num_pairs": 2},
        "2": {"accuracy": 0, "num_pairs": 2},
    }
    assert found["by_subset"]["x"]["accuracy"] == 0.5
    assert found["length_correlation"] > 0.8
    assert found["correct"] == "1100"
