"""The labelled battery: nothing wrong is accepted, and next to nothing right is rejected."""

import json
from collections import Counter
from pathlib import Path

import pytest

from niwaki.verify.check import check
from niwaki.verify.verdict import RIGHT, Reason, Type

CASES = [
    json.loads(line) for line in Path(__file__).with_name("battery.jsonl").read_text("utf-8").splitlines()
]
MOST_FALSE_REJECTS = 2
WRONG_CASES = [case for case in CASES if not case["label"]]


def graded(case):
    return check(case["answer"], case["gold"], type=case.get("type"), options=case.get("options"), limit_s=30)


def name(case):
    return f"{case['category']}: {case['answer'][:30]} for {case['gold'][:30]}"


def test_the_battery_is_large_and_two_sided():
    labels = Counter(case["label"] for case in CASES)
    assert len(CASES) >= 500
    assert min(labels.values()) >= 200
    assert len({(case["gold"], case["answer"], str(case.get("options"))) for case in CASES}) > 0.98 * len(
        CASES
    )


@pytest.mark.parametrize("category", sorted({case["category"] for case in CASES}))
def test_nothing_wrong_is_accepted(category):
    wrong = [case for case in WRONG_CASES if case["category"] == category]
    assert [name(case) for case in wrong if graded(case).correct] == []


def test_next_to_nothing_right_is_rejected():
    rejected = [name(case) for case in CASES if case["label"] and not graded(case).correct]
    assert len(rejected) <= MOST_FALSE_REJECTS, rejected


def test_every_verdict_has_a_reason_that_agrees_with_it():
    for case in CASES:
        verdict = graded(case)
        assert isinstance(verdict.reason, Reason)
        assert isinstance(verdict.type, Type)
        assert verdict.correct == (verdict.reason in RIGHT)
