"""Debiasing: the paper's numbers, two-sided targets, several nuisances, objectives that cannot be mended."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from niwaki.errors import DataError
from niwaki.reward.debias import PAPER_GRID, correlations, debias, spearman
from niwaki.reward.gate import combine

from .conftest import generator


def columns(n=4000, seed=0):
    rng = generator(seed)
    verbosity = rng.normal(size=n)
    return verbosity, rng.normal(size=n), rng.normal(size=n)


def test_the_grid_is_the_papers():
    assert len(PAPER_GRID) == 24
    assert PAPER_GRID[:9] == (0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2)
    assert PAPER_GRID[-1] == 0.95


def test_golden_transform_and_score():
    transform = np.array([[1, 0, 0], [0, 1, 0], [-0.1, -0.2, 0]])
    rewards, gate = np.array([0.8, 0.6, 0.5]), np.array([0.5, 0.3, 0.2])
    assert rewards @ transform == pytest.approx([0.75, 0.5, 0])
    assert combine(gate, rewards, transform) == pytest.approx(0.525)
    assert (transform @ gate) @ rewards == pytest.approx(0.525)


@pytest.mark.parametrize("target", [0.0, 0.2, -0.1])
def test_both_signs_of_correlation_are_brought_to_the_target(target):
    v, a, b = columns()
    rewards = np.column_stack([a + 0.7 * v, b - 0.5 * v, v])
    found = debias(rewards, [2], objectives=list("abv"), target=target)
    assert found.after[0, :2] == pytest.approx([target, target], abs=1e-3)
    assert found.lambdas[0, 1] < 0 or target > 0 or found.lambdas[0, 1] < 0
    assert found.transform[2, 2] == 0
    clean = rewards @ found.transform
    assert spearman(clean[:, 0], v) == pytest.approx(target, abs=1e-3)
    assert (clean[:, 2] == 0).all()


def test_one_sided_is_the_papers_search():
    v, a, b = columns(20000)
    rewards = np.column_stack([a + 0.3 * v, b - 0.5 * v, a, v])
    found = debias(rewards, [3], objectives=list("abcv"), one_sided=True, tolerance=0.03)
    assert found.lambdas[0, 0] in PAPER_GRID
    assert 0.2 < found.lambdas[0, 0] <= 0.3
    assert found.lambdas[0, 1] == 0
    assert found.lambdas[0, 2] == 0


@pytest.mark.parametrize("one_sided", [True, False])
def test_an_objective_that_is_the_nuisance_is_refused_by_name(one_sided):
    v, a, _ = columns()
    with pytest.raises(DataError, match="objective 'twin'"):
        debias(np.column_stack([a, 2 * v, v]), [2], objectives=["a", "twin", "v"], one_sided=one_sided)


def test_two_nuisances_at_once_and_a_measured_one():
    v, a, noise = columns()
    length = v + 0.3 * noise
    other = generator(3).normal(size=len(v))
    rewards = np.column_stack([a + 0.6 * v + 0.4 * other, v, other])
    found = debias(rewards, [1, 2], objectives=["a", "v", "o"], observed=[length, None])
    assert np.abs(found.after[:, 0]).max() < 0.03
    assert spearman((rewards @ found.transform)[:, 0], length) == pytest.approx(found.after[0, 0])


def test_rank_correlation_is_scipys():
    v, a, _ = columns(200)
    v = np.round(v)
    assert spearman(v, a) == pytest.approx(spearmanr(v, a).statistic)
    assert np.isnan(spearman(np.ones(5), np.arange(5)))
    assert correlations(np.column_stack([a, v]), [v])[0, 1] == pytest.approx(1)
