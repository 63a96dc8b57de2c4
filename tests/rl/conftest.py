"""A model of 30,000 parameters and questions that it can be asked."""

import pytest

from niwaki.rl.fresh import fresh_model
from niwaki.verify.prompt import BARE, completion_of, prompt_of
from niwaki.verify.question import Question

TINY = {"hidden": 32, "ffn": 64, "layers": 1, "vocab": 300}


def sums(number, *, first=0):
    """Questions with worked solutions, of two domains in turn."""
    return [
        Question(
            f"s{place}",
            f"{place % 7}+{place % 5}=?",
            str(place % 7 + place % 5),
            domain="math" if place % 2 else "law",
            source="sums",
            meta={"solution": f"{place % 7} and {place % 5}"},
        )
        for place in range(first, first + number)
    ]


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """The folder of a model of random weights."""
    texts = [prompt_of(q, BARE) + completion_of(q.meta["solution"], q.gold) for q in sums(70)]
    return fresh_model(texts, tmp_path_factory.mktemp("start") / "model", **TINY)
