"""Copies are found, exact and near; the first is kept; other numbers or answers make another question."""

import random

import numpy as np
import pytest

from niwaki.curation.duplicates import Fingerprints, _bands, fingerprint
from niwaki.curation.generators import generate
from niwaki.curation.words import hashes, ngram_hashes, words

LONG = (
    "A baker sells round loaves of bread for 3 coins each and long loaves for 5 coins each in the old market"
)


def found(tmp_path, questions, **settings):
    prints = [fingerprint(one) for one in questions]
    store = Fingerprints(tmp_path)
    store.add(
        np.array([one.exact for one in prints], np.uint64),
        np.array([one.strict for one in prints], np.uint64),
        np.stack([one.signature for one in prints]),
        np.array([len(one.shingles) for one in prints]),
        np.concatenate([one.shingles for one in prints]),
    )
    duplicates = list(store.duplicates(**settings))
    store.close()
    assert not list(tmp_path.iterdir())
    return [(one.index, one.of, one.similarity == 1.0) for one in duplicates]


def test_layout_and_case_make_no_difference(question, tmp_path):
    texts = [LONG, LONG.upper(), f"  {LONG.replace(' ', '  ')}?", f"${LONG}$"]
    assert found(tmp_path, [question(text) for text in texts]) == [(1, 0, True), (2, 0, True), (3, 0, True)]


def test_numbers_signs_answers_and_options_make_a_difference(question, tmp_path):
    questions = [
        question("What is 31 + 5 apples and pears in the basket?"),
        question("What is 31 + 6 apples and pears in the basket?"),
        question("What is 31 - 5 apples and pears in the basket?", "26"),
        question(LONG, "10"),
        question(LONG.replace("old", "new"), "11"),
        question("Which is it?", "A", options=("a cat", "a dog")),
        question("Which is it?", "A", options=("a cow", "a pig")),
    ]
    assert found(tmp_path, questions) == []


LATER = "and then, when the market has closed and all of the coins of the day were counted twice by the baker"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(2 + 3) * 4", "2 + (3 * 4)"),
        ("2 * 3 - 1", "2 - 3 * 1"),
        ("[0, 1)", "(0, 1]"),
        (r"x \le 3", r"x \ge 3"),
        (r"A \cup B", r"A \cap B"),
        (r"x^{2y}", r"x^2y"),
        ("1.5 and 2", "1 and 5.2"),
        ("(true and not false) or true", "true and (not false or true)"),
        ("true or false", "true and false"),
        ("the least of them", "the most of them"),
        ("three of them", "four of them"),
        ("which is right", "which is not right"),
        ("(a, b), c", "a, (b, c)"),
        ("(right or (right and right)) and right", "right or (right and (right and right))"),
        ("f'(x)", "f(x)"),
        ("the rate (in percent) of growth", "the rate (in percent of growth)"),
    ],
)
def test_other_numbers_operators_or_brackets_make_another_question(question, tmp_path, one, other):
    """However long the words around them, and although gold is the same."""
    texts = [f"{LONG}: what is {formula} {LATER}?" for formula in (one, other)]
    assert found(tmp_path, list(map(question, texts)), threshold=0.5) == []
    choices = [question("Which one is it?", "A", options=(formula, LONG)) for formula in (one, other)]
    assert found(tmp_path, choices, threshold=0.5) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{2} \times x", r"\dfrac{1}{2} \cdot x"),
        ("x^{2}", "$x^2$"),
        ("x <= 3", r"x \leq 3"),
        ("**bold** words", "bold words"),
        ("a well-known word", "a well known word"),
        (r"\left( 1, 2 \right)", "(1,2)"),
    ],
)
def test_other_notation_makes_no_difference(question, tmp_path, one, other):
    texts = [f"{LONG}: what is {formula} {LATER}?" for formula in (one, other)]
    assert [index for index, *_ in found(tmp_path, list(map(question, texts)), threshold=0.7)] == [1]


def test_formulas_of_few_words_are_told_apart(tmp_path):
    """Of 700 different formulas in the same five words, 501 were once taken for copies of others."""
    asked = list(generate("truth_value", num_questions=700, split="train", difficulty=1, seed=0))
    assert found(tmp_path, asked) == []


def test_a_phrase_that_comes_twice_counts_twice(question, tmp_path):
    said = "so the blue bird sang and the red bird sang"
    texts = [" ".join([said] * 2), " ".join([said] * 4)]
    assert found(tmp_path, list(map(question, texts)), threshold=0.6) == []


def test_near_copies(question, tmp_path):
    near = LONG.replace("old", "new")
    assert found(tmp_path, [question(LONG), question(near)], threshold=0.7) == [(1, 0, False)]
    assert found(tmp_path, [question(LONG), question(near)], threshold=0.99) == []


def test_shuffled_options_are_the_same_question(question, tmp_path):
    first = question("Which animal barks?", "B", options=("cat", "dog", "cow"))
    other = question("Which animal barks?", "C", options=("cow", "cat", "dog"))
    assert found(tmp_path, [first, other]) == [(1, 0, True)]


def test_a_chain_of_copies_leads_to_the_one_that_is_kept(question, tmp_path):
    texts = [LONG, LONG.replace("old", "new"), LONG.replace("old", "new").upper(), LONG]
    assert [(index, of) for index, of, _ in found(tmp_path, list(map(question, texts)), threshold=0.7)] == [
        (1, 0),
        (2, 0),
        (3, 0),
    ]


def test_estimates_agree_with_true_similarity(question, tmp_path):
    """Pairs at a Jaccard similarity of 0.9 are found, pairs at 0.5 are not."""
    rng = random.Random(0)
    vocabulary = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    questions, near = [], set()
    for number in range(60):
        base = rng.sample(vocabulary, 80)
        changed = list(base)
        for place in [40] if number % 2 else range(0, 80, 8):
            changed[place] = "zzz"
        a, b = (set(ngram_hashes(hashes(words(" ".join(text))), 3).tolist()) for text in (base, changed))
        true = len(a & b) / len(a | b)
        assert (true > 0.9) == bool(number % 2)
        near |= {2 * number + 1} if true > 0.9 else set()
        questions += [question(" ".join(base)), question(" ".join(changed))]
    assert {index for index, _, _ in found(tmp_path, questions)} == near


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_bring_pairs_at_the_threshold_together(threshold):
    bands, rows = _bands(threshold)
    assert bands * rows <= 64
    assert 1 - (1 - threshold**rows) ** bands >= 0.99
