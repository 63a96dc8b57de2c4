"""What holds for every answer: gold accepts itself, decoration changes nothing, a changed digit is wrong."""

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from niwaki.verify.check import check, infer_type
from niwaki.verify.verdict import Type

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
LIMIT_S = 30

whole = st.integers(-(10**12), 10**12)
decimals = st.decimals(-(10**6), 10**6, places=3).map(lambda number: f"{number:f}")
fractions = st.fractions(max_denominator=999).map(
    lambda f: (
        f"\\frac{{{f.numerator}}}{{{f.denominator}}}"
        if f >= 0
        else f"-\\frac{{{-f.numerator}}}{{{f.denominator}}}"
    )
)
numbers = whole.map(str) | decimals | fractions
leaves = st.sampled_from(["x", "y", "2", "3", "\\pi", "\\sqrt{2}", "\\frac{1}{3}"])
formulas = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "\\cdot "]), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        )
        | inner.map(lambda one: f"{{{one}}}^{{2}}")
    ),
    max_leaves=6,
)
words = st.lists(st.text("abcdefghijklmnoprstuvwxyz", min_size=3, max_size=9), min_size=1, max_size=4).map(
    " ".join
)
lists = st.lists(numbers, min_size=2, max_size=5, unique=True)
sets = lists.map(lambda items: "\\{" + ", ".join(items) + "\\}")
tuples = lists.map(lambda items: "(" + ", ".join(items) + ")")
golds = numbers | formulas | words | sets | tuples | st.sampled_from("ABCDE")

DECORATIONS = [
    "  {}\n",
    "${}$",
    "$$ {} $$",
    "\\({}\\)",
    "\\boxed{{{}}}",
    "$\\boxed{{ {} }}$.",
    "**{}**",
    "{}.",
    "The answer is {}.",
    "**Answer:** ${}$",
    "<answer>{}</answer>",
    "<think>It could be 5, or \\boxed{{6}}.</think>\n\\boxed{{{}}}",
]


def right(answer, gold, **arguments):
    return check(answer, gold, limit_s=LIMIT_S, **arguments).correct


@SETTINGS
@given(golds)
def test_gold_accepts_itself(gold):
    assert right(gold, gold)


@pytest.mark.parametrize("decoration", DECORATIONS)
@settings(SETTINGS, max_examples=25)
@given(gold=golds)
def test_decoration_changes_nothing(decoration, gold):
    assert right(decoration.format(gold), gold)


@SETTINGS
@given(whole.filter(bool) | decimals, st.data())
def test_a_changed_digit_is_wrong(number, data):
    text = str(number)
    places = [index for index, character in enumerate(text) if character.isdigit()]
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != text[place]]))
    changed = text[:place] + digit + text[place + 1 :]
    assume(Fraction(changed) != Fraction(text))
    assert not right(changed, text)
    assert not right(text, changed)


@SETTINGS
@given(numbers, numbers)
def test_numbers_are_right_exactly_when_they_are_equal(a, b):
    def value(text):
        sign, body = (-1, text[1:]) if text.startswith("-") else (1, text)
        return sign * Fraction(body.replace("\\frac{", "").replace("}{", "/").rstrip("}"))

    assert right(a, b) == (value(a) == value(b))


@SETTINGS
@given(golds, golds)
def test_grading_is_symmetric_without_units(a, b):
    assume(infer_type(a) == infer_type(b))
    assert right(a, b) == right(b, a)


@SETTINGS
@given(lists, st.randoms(use_true_random=False))
def test_order_counts_in_tuples_only(items, random):
    other = list(items)
    random.shuffle(other)
    assert right("\\{" + ", ".join(other) + "\\}", "\\{" + ", ".join(items) + "\\}")
    same = all(right(a, b) for a, b in zip(items, other, strict=True))
    assert right("(" + ", ".join(other) + ")", "(" + ", ".join(items) + ")") == same


@SETTINGS
@given(lists)
def test_a_missing_element_is_wrong(items):
    assume(len(items) > 2)
    gold = "\\{" + ", ".join(items) + "\\}"
    assert not right("\\{" + ", ".join(items[:-1]) + "\\}", gold) or any(
        right(items[-1], one) for one in items[:-1]
    )


@SETTINGS
@given(formulas)
def test_a_formula_plus_one_is_wrong_and_rewritten_is_right(formula):
    assert right(f"{formula} + 1 - 1", formula, type="expression")
    assert not right(f"{formula} + 1", formula, type="expression")
    assert not right(f"{formula} + 10^{{-40}}", formula, type="expression")


@SETTINGS
@given(words, words)
def test_words_are_right_exactly_when_they_are_the_same(a, b):
    assume(infer_type(a) is Type.TEXT and infer_type(b) is Type.TEXT)
    assert right(a, b) == (a == b)
    assert not right(f"not {a}", a)
    assert not right(f"{a} or {b}", a)


@settings(SETTINGS, max_examples=150)
@given(st.text(max_size=60), golds)
def test_any_text_gets_a_verdict(answer, gold):
    check(answer, gold, limit_s=LIMIT_S)


@settings(SETTINGS, max_examples=150)
@given(st.text("0123456789+-*/^!(){}[]\\ .,=<>|$%_&xesqrtfacpimboundl", max_size=60), golds)
def test_any_formula_like_text_gets_a_verdict(answer, gold):
    check(answer, gold, limit_s=LIMIT_S)
    check(gold, answer, limit_s=LIMIT_S)
