"""pass@k, majority and what a right answer costs: golden values and properties."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwaki.errors import EvaluationError
from niwaki.evaluation.passk import Answered, GradedSample, compare, majority, pass_at_k, summarise


def samples(text, *, tokens=10, ended=True):
    """R is a right answer "42"; any other letter a wrong answer of its own; - is none."""
    return tuple(
        GradedSample(letter == "R", None if letter == "-" else letter, tokens, ended) for letter in text
    )


def answered(*texts, domain="math", benchmark="b"):
    return [Answered(f"{number}", benchmark, domain, (samples(text),)) for number, text in enumerate(texts)]


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_one_is_accuracy():
    assert pass_at_k(8, 3, 1) == pytest.approx(3 / 8)


@pytest.mark.parametrize("n, c, k", [(4, 1, 5), (4, 5, 1), (4, 1, 0)])
def test_undefined_pass_at_k_is_refused(n, c, k):
    with pytest.raises(EvaluationError):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    "letters, chance", [("RRa", 1.0), ("Raa", 0.0), ("Ra", 0.5), ("Rab", 1 / 3), ("--R", 1.0), ("--", 0.0)]
)
def test_majority(letters, chance):
    assert majority(samples(letters)) == pytest.approx(chance)


def test_an_answer_that_was_cut_off_has_no_vote():
    cut = GradedSample(False, "a", 10, ended=False)
    assert majority((cut, cut, *samples("R"))) == 1.0


def test_tokens_per_right_answer_count_those_of_wrong_ones():
    figures = summarise(
        [
            Answered(
                "1", "b", "d", ((GradedSample(True, "4", 10, True), GradedSample(False, "5", 50, True)),)
            ),
            Answered(
                "2", "b", "d", ((GradedSample(True, "4", 20, True), GradedSample(True, "4", 20, True)),)
            ),
        ],
        ks=[1],
    )["all"]
    assert figures["tokens_of_right"] == pytest.approx(50 / 3)
    assert figures["tokens_of_wrong"] == 50
    assert figures["tokens_per_right"]["mean"] == pytest.approx(100 / 3)


def test_no_right_answer_has_no_cost_and_no_error():
    figures = summarise(answered("aa", "bb"), ks=[1])["all"]
    assert figures["tokens_per_right"] is None
    assert figures["tokens_of_right"] is None
    assert figures["accuracy"]["mean"] == 0


def test_figures_by_benchmark_and_domain_and_seed():
    rows = [
        Answered("1", "x", "math", (samples("Ra"), samples("RR"))),
        Answered("2", "x", "math", (samples("aa"), samples("Ra"))),
        Answered("3", "y", "law", (samples("RR"), samples("RR"))),
        Answered("4", "y", "law", (samples("aa"), samples("aa"))),
    ]
    figures = summarise(rows, ks=[1, 4, 64])
    assert figures["domains"]["math"]["accuracy"]["mean"] == pytest.approx(4 / 8)
    assert figures["benchmarks"]["y"]["accuracy"]["mean"] == pytest.approx(1 / 2)
    assert figures["all"]["by_seed"] == [pytest.approx(3 / 8), pytest.approx(5 / 8)]
    assert list(figures["all"]["pass_at"]) == ["1", "4"]
    assert figures["all"]["pass_at"]["4"]["mean"] == pytest.approx(3 / 4)


def test_intervals_are_of_questions_not_of_samples():
    few = summarise(answered(*["RRRRRRRR", "aaaaaaaa"] * 4), ks=[1])["all"]["accuracy"]
    assert few["high"] - few["low"] > 0.4  # 8 questions, although there are 64 samples


def test_the_comparison_is_paired():
    before = answered(*["Ra", "aa"] * 30)
    after = answered(*["RR", "Ra"] * 30)
    difference = compare(before, after)["all"]
    assert difference["mean"] == pytest.approx(0.5)
    assert difference["low"] == pytest.approx(0.5)  # every question gained the same
    with pytest.raises(EvaluationError, match="same questions"):
        compare(before, after[1:])


def test_tokens_per_right_may_be_without_bound():
    figures = summarise(answered("Ra", *["aa"] * 3), ks=[1])["all"]
    assert figures["tokens_per_right"]["high"] is None
