"""Streamed ridge: golden values, scikit-learn's answers, prompts kept together, missing labels."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from niwaki.errors import DataError
from niwaki.reward import ridge
from niwaki.reward.objectives import scaled, unscaled

from .conftest import generator

GOLDEN_X = np.array([[1.0, 0], [0, 1], [1, 1]])


def groups_of(n):
    return [f"{(i // 2 * 2654435761) % 2**52:013x}" for i in range(n)]


def problem(n=400, d=12, k=3, missing=0.0, seed=0):
    rng = generator(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = x @ rng.normal(size=(d, k)) + 0.5 * rng.normal(size=(n, k))
    y[rng.random((n, k)) < missing] = np.nan
    return x, y


def test_golden_values():
    for y, expected in (([1.0, 2, 3], [0.875, 1.375]), ([1.0, 0, np.nan], [0.5, 0])):
        normal = ridge.gather([(GOLDEN_X, np.array(y)[:, None])], groups_of(3), ["a"])
        assert ridge.heads(normal, np.array([1.0]), np.ones(20))[0] == pytest.approx(expected)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_heads_equal_scikit_learns_whatever_the_blocks(missing):
    x, y = problem(missing=missing)
    blocks = [(x[i : i + 37], y[i : i + 37]) for i in range(0, len(x), 37)]
    normal = ridge.gather(blocks, groups_of(len(x)), list("abc"))
    alphas = np.array([0.1, 1.0, 10.0])
    found = ridge.heads(normal, alphas, np.ones(20))
    for k in range(3):
        known = ~np.isnan(y[:, k])
        expected = SklearnRidge(alpha=alphas[k], fit_intercept=False).fit(x[known].astype(float), y[known, k])
        assert found[k] == pytest.approx(expected.coef_, rel=1e-8)


def test_cross_validation_equals_one_done_by_hand():
    x, y = problem(missing=0.3)
    groups = groups_of(len(x))
    normal = ridge.gather([(x, y)], groups, list("abc"))
    fitted = ridge.fit(normal, alphas=(0.1, 100.0))
    fold = ridge.bucket_of(groups, 20) % 5
    for k in range(3):
        errors = np.full(len(x), np.nan)
        known = ~np.isnan(y[:, k])
        for f in range(5):
            inside, outside = known & (fold != f), known & (fold == f)
            model = SklearnRidge(alpha=0.1, fit_intercept=False).fit(x[inside].astype(float), y[inside, k])
            errors[outside] = model.predict(x[outside].astype(float)) - y[outside, k]
        assert fitted.curve[0, k] == pytest.approx(np.nanmean(errors**2), rel=1e-6)
        assert fitted.alphas[k] == 0.1
        assert fitted.r2[k] == pytest.approx(1 - np.nanmean(errors**2) / np.nanvar(y[:, k]), rel=1e-6)
    predicted = ridge.out_of_fold(normal, fitted, [x], groups)
    assert np.nanmean((predicted - y) ** 2, axis=0) == pytest.approx(fitted.mse, rel=1e-6)


def test_rows_of_one_prompt_are_in_one_fold():
    groups = groups_of(100)
    buckets = ridge.bucket_of(groups, 20)
    assert (buckets[::2] == buckets[1::2]).all()
    assert len(set(buckets)) > 10


def test_noise_takes_the_largest_penalty_and_an_objective_without_labels_is_refused():
    x, y = problem()
    y[:, 1] = generator(5).normal(size=len(y))
    assert ridge.fit(ridge.gather([(x, y)], groups_of(len(x)), list("abc"))).alphas[1] >= 1000
    y[:, 2] = np.nan
    with pytest.raises(DataError, match="objective 'c' has no labels"):
        ridge.gather([(x, y)], groups_of(len(x)), list("abc"))
    x[5, 3] = np.inf
    with pytest.raises(DataError, match="row 5 are not finite"):
        ridge.gather([(x, y)], groups_of(len(x)), list("abc"))


def test_an_ensemble_is_as_wide_as_the_uncertainty():
    x, y = problem(n=2000, d=4, k=1)
    normal = ridge.gather([(x, y)], groups_of(len(x)), ["a"])
    ensemble = ridge.bootstrap(normal, np.array([1.0]), num_heads=200)
    # Of least squares with noise of deviation 0.5: 0.5 / sqrt(n).
    assert ensemble[:, 0].std(axis=0) == pytest.approx(np.full(4, 0.5 / np.sqrt(2000)), rel=0.5)
    assert np.abs(ensemble.mean(0) - ridge.heads(normal, np.array([1.0]), np.ones(20))).max() < 0.01


def test_ratings_are_scaled_as_the_model_card_says():
    labels = np.arange(5.0)[:, None]
    found = scaled(labels, [(0, 4)])
    assert found[:, 0] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert unscaled(found, [(0, 4)]) == pytest.approx(labels)
