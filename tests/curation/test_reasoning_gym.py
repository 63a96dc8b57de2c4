"""Questions of reasoning-gym, where it is installed, fall on our sides of the split."""

import sys
from types import SimpleNamespace

import pytest

from niwaki.curation.generators import split_of
from niwaki.curation.reasoning_gym import from_reasoning_gym
from niwaki.curation.sources import made_up, reasoning_gym_is_here
from niwaki.errors import DataError


def ask(tasks, **settings):
    return list(made_up("rg", generator="reasoning_gym", tasks=tasks, num_questions=20, **settings))


def test_questions_of_several_tasks_are_different_and_split():
    pytest.importorskip("reasoning_gym")
    tasks = ["basic_arithmetic", "letter_counting"]
    train, test = (ask(tasks, split=split) for split in ("train", "test"))
    assert len({q.question for q in (*train, *test)}) == 40
    assert {split_of(q.question) for q in train} == {"train"}
    assert {q.domain for q in train} == {"math", "gpr"}
    assert all(q.check(rf"\boxed{{{q.gold}}}").correct for q in train)
    with pytest.raises(DataError, match="no task 'chess'"):
        ask(["chess"])
    with pytest.raises(DataError, match="'rubiks_cube' gives no answers"):
        ask(["rubiks_cube"], split="train")
    with pytest.raises(DataError, match="'composite' cannot be made"):
        ask(["composite"], split="train")


def test_a_task_without_answers_is_named(monkeypatch):
    """Without reasoning-gym: what its generators may do, in place of it."""
    made = {
        "none": lambda: [{"question": f"puzzle {number}", "answer": None} for number in range(200)],
        "few": lambda: [{"question": "puzzle", "answer": "4"}] * 200,
        "broken": _refuse,
    }
    kind = type("Made", (), {"__module__": "reasoning_gym.algebra.made"})
    gym = SimpleNamespace(create_dataset=lambda task, **_: made[task]())
    monkeypatch.setitem(sys.modules, "reasoning_gym", gym)
    factory = SimpleNamespace(DATASETS=dict.fromkeys(made, (kind, None)))
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)
    for task, said in {"none": "no answers", "few": "different", "broken": "cannot be made"}.items():
        with pytest.raises(DataError, match=said):
            list(from_reasoning_gym("rg", [task], num_questions=5, split="train", seed=0))


def _refuse():
    raise AssertionError("Must specify at least one dataset")


@pytest.mark.skipif(reasoning_gym_is_here(), reason="reasoning-gym is installed")
def test_without_it_the_remedy_is_named():
    with pytest.raises(DataError, match="pip install reasoning-gym"):
        ask(["basic_arithmetic"])
