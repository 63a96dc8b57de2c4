"""Questions to curate, and the real sets where they are."""

from pathlib import Path

import pytest

from niwaki.verify.question import Question

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture
def question():
    def make(text="What is 2 + 2?", gold="4", **fields):
        fields.setdefault("id", "q-1")
        return Question(question=text, gold=gold, **fields)

    return make
