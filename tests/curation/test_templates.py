"""Multiple choice without its options, and open questions with mined ones."""

from collections import Counter

import pytest

from niwaki.curation.templates import Distractors, needs_its_options, to_open
from niwaki.verify.verdict import Type

STANDS_ALONE = [
    ("What is the capital of France?", "Paris"),
    ("Who wrote Hamlet?", "Shakespeare"),
    ("How many legs does a spider have?", "8"),
    ("The process by which plants make sugar is called", "photosynthesis"),
    ("A train goes 60 km in 30 minutes. What is its speed?", "120 km/h"),
    ("Find the value of x if 2x = 10.", "5"),
    ("In which year did the war end?", "1945"),
    ("The author of 'Emma' was ____.", "Jane Austen"),
    ("Which planet is nearest the Sun?", "Mercury"),
]
NEEDS_OPTIONS = [
    ("Which of the following is a mammal?", "whale"),
    ("Which of these is a prime number?", "7"),
    ("All of the following are true EXCEPT", "water is dry"),
    ("Which is NOT a colour?", "seven"),
    ("Which statement about the passage is correct?", "it is long"),
    ("The best title for this passage would be", "A day"),
    ("What can be inferred about the man?", "he is sad"),
    ("Choose the correct option.", "up"),
    ("Plants are", "green"),
    ("Which expression is equivalent to 2(x + 1)?", "2x + 2"),
    ("What is the cause?", "None of the above"),
    ("What is the cause?", "Both A and B"),
    ("The number is approximately", "300"),
    ("Which one is it?", "this"),
]


@pytest.mark.parametrize("asked, gold", STANDS_ALONE)
def test_answerable_without_options(question, asked, gold):
    assert needs_its_options(question(asked, "B", options=("other", gold, "another"))) is None


@pytest.mark.parametrize("asked, gold", NEEDS_OPTIONS)
def test_senseless_without_options(question, asked, gold):
    assert needs_its_options(question(asked, "B", options=("other", gold, "another"))) is not None


def test_open_asks_for_the_text_of_the_right_option(question):
    mc = question("Who wrote Hamlet?", "B", type=Type.MC, options=("Marlowe", "Shakespeare."), template="mc")
    opened = to_open(mc)
    assert (opened.gold, opened.options, opened.template, opened.type) == (
        "Shakespeare",
        None,
        "open",
        "text",
    )
    assert opened.meta["options"] == ["Marlowe", "Shakespeare."]
    assert opened.check(r"\boxed{shakespeare}").correct
    assert not opened.check(r"\boxed{B}").correct
    numeric = to_open(question("How many?", "A", type=Type.MC, options=("8", "9")))
    assert numeric.type == "number"
    assert numeric.check("8.0").correct


def numbers(question, count=200):
    return [
        question(f"What is {n} + {n}?", str(2 * n), id=f"q-{n}", source="s", type=Type.NUMBER)
        for n in range(count)
    ]


def test_mined_options_hold_gold_once_and_at_every_place_equally_often(question):
    asked = numbers(question)
    distractors = Distractors(seed=0)
    for one in asked:
        distractors.add(one)
    mc = [distractors.to_mc(one) for one in asked]
    for before, after in zip(asked, mc, strict=True):
        assert after.template == "mc"
        assert len(set(after.options)) == 4
        right = [option for option in after.options if after.check(option).correct]
        assert right == [before.gold]
        assert after.meta["open_gold"] == before.gold
    assert Counter(one.gold for one in mc) == dict.fromkeys("ABCD", 50)
    assert [one.gold for one in mc[:12]] != list("ABCD" * 3)


def test_mining_is_seeded_and_near(question):
    asked = numbers(question)

    def made(seed):
        distractors = Distractors(seed=seed)
        for one in asked:
            distractors.add(one)
        return [distractors.to_mc(one) for one in asked]

    assert made(0) == made(0)
    assert made(0) != made(1)
    [middle] = [one for one in made(0) if one.meta["open_gold"] == "200"]
    assert all(100 < int(option) < 300 for option in middle.options)


def test_other_notations_of_gold_are_no_wrong_answers(question):
    golds = ["1/2", "0.5", r"\frac{1}{2}", "3/6", "1/3", "1/4", "1/5"]
    asked = [
        question(f"Q{n}?", gold, id=f"q-{n}", source="s", type=Type.NUMBER) for n, gold in enumerate(golds)
    ]
    distractors = Distractors(seed=0)
    for one in asked:
        distractors.add(one)
    half = distractors.to_mc(asked[0])
    assert half is None or sorted(set(half.options) - {"1/2"}) == ["1/3", "1/4", "1/5"]


def test_too_few_answers_to_mine(question):
    distractors = Distractors(seed=0)
    lonely = question("Who?", "Ann", source="s")
    distractors.add(lonely)
    assert distractors.to_mc(lonely) is None


def test_the_pool_is_bounded(question):
    distractors = Distractors(seed=0, most_each=50)
    for one in numbers(question, 500):
        distractors.add(one)
    [pool] = distractors._pools.values()
    assert len(pool) == 50
    assert max(map(int, pool)) > 200
