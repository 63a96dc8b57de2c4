"""What is dropped because answers to it could not be checked, and what is kept."""

import pytest

from niwaki.curation.filters import FILTERS, why_dropped
from niwaki.verify.verdict import Type

TEN, ELEVEN = " ".join(["word"] * 10), " ".join(["word"] * 11)


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"gold": "4", "domain": "math"}, None),
        ({"gold": "", "domain": "math"}, "empty_gold"),
        ({"gold": "$$", "domain": "math"}, "empty_gold"),
        ({"gold": TEN, "domain": "gpr"}, None),
        ({"gold": ELEVEN, "domain": "gpr"}, "long_gold"),
        ({"gold": ELEVEN, "domain": "math", "type": Type.TEXT}, None),
        ({"gold": "B", "options": ("x", "y")}, None),
        ({"gold": "y", "options": ("x", "y")}, None),
        ({"gold": "C", "options": ("x", "y")}, "gold_not_an_option"),
        ({"gold": "z", "options": ("x", "y")}, "gold_not_an_option"),
        ({"gold": "A", "options": ("x", "X.")}, "options_repeat"),
        ({"gold": "A", "options": ("x", "")}, "options_repeat"),
        ({"gold": "1/0", "type": Type.NUMBER, "domain": "math"}, None),
        ({"gold": "x" * 3000, "domain": "math"}, "unverifiable_gold"),
        ({"gold": r"\boxed{", "domain": "math"}, "unverifiable_gold"),
    ],
)
def test_gold(question, fields, reason):
    assert why_dropped(question(**fields)) == reason


@pytest.mark.parametrize(
    "asked, gold, reason",
    [
        ("Two parts.\n(a) What is x?\n(b) What is y?", "3", "several_parts"),
        ("Let f(a) + f(b) = 3. What is f(a)?", "3", None),
        ("Put your final answer in parentheses. What is 1 + 1?", "2", "own_form"),
        (r"What is 1 + 1? Write \boxed{}.", "2", "own_form"),
        ("Respond only in JSON: who?", "Ann", "own_form"),
        ("What is the final answer of the series?", "Ann", None),
    ],
)
def test_questions(question, asked, gold, reason):
    assert why_dropped(question(asked, gold)) == reason


def test_a_filter_that_is_left_out_drops_nothing(question):
    bad = question(gold="", domain="math")
    assert (
        why_dropped(bad, filters=tuple(name for name in FILTERS if name != "empty_gold"))
        == "unverifiable_gold"
    )
    assert why_dropped(bad, filters=()) is None
    assert why_dropped(question("one two three"), longest_question_words=2) == "long_question"
    assert why_dropped(question(gold=TEN), longest_gold_words=9) == "long_gold"
