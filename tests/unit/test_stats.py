"""Intervals: golden values, coverage and the refusals."""

import math

import numpy as np
import pytest

from niwaki.errors import EvaluationError
from niwaki.ground.stats import bootstrap_mean, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),  # the textbook interval for 8 of 10
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_wilson_matches_published_values(successes, trials, low, high):
    interval = wilson(successes, trials)
    assert interval.mean == successes / trials
    assert interval.low == pytest.approx(low, abs=2e-7)
    assert interval.high == pytest.approx(high, abs=2e-7)
    assert interval.low <= interval.mean <= interval.high


def test_bootstrap_agrees_with_the_normal_theory_of_a_large_sample():
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    interval = bootstrap_mean(values)
    half = 1.959964 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        interval = bootstrap_mean(generator.exponential(1.0, 60), confidence=0.9, num_resamples=300)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.82 <= hits / 200 <= 0.96


def test_counts_make_a_token_weighted_mean_not_a_mean_of_means():
    interval = bootstrap_mean([10.0, 2.0], counts=[10, 1])
    assert interval.mean == pytest.approx(12 / 11)
    assert interval.low == pytest.approx(1.0)
    assert interval.high == pytest.approx(2.0)


def test_a_row_without_items_changes_nothing():
    assert bootstrap_mean([4.0, 9.0, 0.0], counts=[2, 3, 0]) == bootstrap_mean([4.0, 9.0], counts=[2, 3])


def test_the_seed_decides_the_interval():
    values = np.arange(30.0)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5) != bootstrap_mean(values, seed=6)


def test_pairing_sees_a_difference_that_two_separate_intervals_hide():
    difficulty = np.random.default_rng(3).normal(0.0, 5.0, 200)
    noise = np.random.default_rng(4).normal(0.0, 0.1, 200)
    a, b = difficulty + 0.2, difficulty + noise
    difference = paired_difference(a, b)
    assert difference.low > 0.1
    assert difference.mean == pytest.approx(a.mean() - b.mean())
    assert bootstrap_mean(a).low < bootstrap_mean(b).high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([1.0]), "two rows"),
        (lambda: bootstrap_mean([]), "two rows"),
        (lambda: bootstrap_mean([1.0, float("nan")]), "row 1"),
        (lambda: bootstrap_mean([1.0, 2.0], counts=[0, 0]), "nothing to average"),
        (lambda: bootstrap_mean([1.0, 2.0], counts=[1, 1, 1]), "one count a row"),
        (lambda: paired_difference([1.0, 2.0], [1.0, 2.0, 3.0]), "pairs"),
        (lambda: wilson(3, 2), "3 successes in 2 trials"),
        (lambda: wilson(0, 0), "not a proportion"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
