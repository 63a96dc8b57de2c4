"""Pass counts: stored, added up, used again, and decided on by their intervals."""

import json

import pytest

from niwaki.curation.difficulty import DifficultyStore, keep_by_difficulty, measure
from niwaki.errors import DataError, EvaluationError


@pytest.fixture
def asked(question):
    return [question(f"What is {n} + 1?", str(n + 1), id=f"q-{n}") for n in range(6)]


def store_at(tmp_path, model="m", prompt="p"):
    return DifficultyStore(tmp_path / "passes.jsonl", model=model, prompt=prompt)


def test_counts_add_up_over_runs_and_belong_to_model_prompt_and_form(asked, tmp_path):
    store_at(tmp_path).add(asked[0], num_correct=1, num_samples=4)
    store_at(tmp_path).add(asked[0], num_correct=3, num_samples=4)
    passes = store_at(tmp_path).get(asked[0])
    assert (passes.num_correct, passes.num_samples) == (4, 8)
    assert (round(passes.interval.low, 4), round(passes.interval.high, 4)) == (0.2152, 0.7848)
    assert store_at(tmp_path, model="other").get(asked[0]) is None
    assert store_at(tmp_path, prompt="other").get(asked[0]) is None
    assert store_at(tmp_path).get(asked[1]) is None
    with pytest.raises(EvaluationError):
        store_at(tmp_path).add(asked[0], num_correct=5, num_samples=4)


def test_a_killed_write_costs_one_row_and_a_wrong_row_is_named(asked, tmp_path):
    file = tmp_path / "passes.jsonl"
    store_at(tmp_path).add(asked[0], num_correct=1, num_samples=4)
    with file.open("a") as half:
        half.write('{"model": "m", "pro')
    assert len(store_at(tmp_path)) == 1
    store_at(tmp_path).add(asked[1], num_correct=0, num_samples=4)
    assert len(store_at(tmp_path)) == 2
    assert all(json.loads(line) for line in file.read_text().splitlines())
    file.write_text("[]\n" + file.read_text())
    with pytest.raises(DataError, match="row 1: is no pass count"):
        store_at(tmp_path)


def test_only_what_is_missing_is_asked(asked, tmp_path):
    calls, seeds = [], set()

    def answer(questions, num_samples, seed):
        calls.append((len(questions), num_samples))
        seeds.add(seed)
        return [[q.gold] * (num_samples // 2) + ["0"] * (num_samples - num_samples // 2) for q in questions]

    store = store_at(tmp_path)
    store.add(asked[0], num_correct=0, num_samples=4)
    store.add(asked[1], num_correct=0, num_samples=2)
    assert measure(asked, store, num_samples=4, answer=answer) == 2 + 4 * 4
    assert sorted(calls) == [(1, 2), (4, 4)]
    assert len(seeds) == 2
    assert store.get(asked[1]).num_correct == 1
    assert store.get(asked[5]).num_correct == 2
    assert measure(asked, store_at(tmp_path), num_samples=4, answer=answer) == 0


def test_what_is_dropped(asked, tmp_path):
    store = store_at(tmp_path)
    for one, correct in zip(asked, [0, 1, 4, 7, 8], strict=False):
        store.add(one, num_correct=correct, num_samples=8)

    def reasons(**bounds):
        return [reason for _, _, reason in keep_by_difficulty(asked, store, **bounds)]

    assert reasons() == [None] * 6
    assert reasons(highest=0.5) == [None, None, None, "too_easy", "too_easy", None]
    assert reasons(lowest=0.4) == ["too_hard", None, None, None, None, None]
    assert reasons(highest=0) == [None, "too_easy", "too_easy", "too_easy", "too_easy", None]


def test_the_papers_rule_with_one_sample(asked, tmp_path):
    store = store_at(tmp_path)
    store.add(asked[0], num_correct=0, num_samples=1)
    store.add(asked[1], num_correct=1, num_samples=1)
    kept = [q.id for q, _, reason in keep_by_difficulty(asked, store, highest=0) if reason is None]
    assert "q-0" in kept
    assert "q-1" not in kept
