"""Questions of reasoning-gym, where it is installed, fall on our sides of the split."""

import pytest

from niwaki.curation.generators import split_of
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


@pytest.mark.skipif(reasoning_gym_is_here(), reason="reasoning-gym is installed")
def test_without_it_the_remedy_is_named():
    with pytest.raises(DataError, match="pip install reasoning-gym"):
        ask(["basic_arithmetic"])
