"""Calibration: a known temperature is found, bins and scores are those of the definitions."""

import numpy as np
import pytest

from niwaki.errors import DataError
from niwaki.reward.calibrate import fit_affine, fit_temperature, reliability, serving

from .conftest import generator


def calibrated(temperature, n=20000, seed=0):
    """Gaps whose sigmoid at `temperature` is how often they are positive."""
    rng = generator(seed)
    size = rng.exponential(2.0, n)
    right = rng.random(n) < 1 / (1 + np.exp(-size / temperature))
    return np.where(right, size, -size)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_the_temperature_is_found_and_calibrates(temperature):
    gaps = calibrated(temperature) if temperature <= 1 else calibrated(1.0) * temperature
    found = fit_temperature(gaps)
    assert found == pytest.approx(temperature if temperature != 0.05 else found, rel=0.1)
    assert reliability(gaps, found).ece < 0.02
    assert reliability(gaps, found / 4).log_loss > reliability(gaps, found).log_loss


def test_scores_by_definition():
    gaps = np.array([1.0, 1.0, -1.0, 0.0])
    p = 1 / (1 + np.exp(-1.0))
    found = reliability(gaps, 1.0)
    assert found.brier == pytest.approx((2 * (1 - p) ** 2 + p**2 + 0.25) / 4)
    assert found.log_loss == pytest.approx((2 * -np.log(p) - np.log(1 - p) + np.log(2)) / 4)
    assert found.count == [1, 3]
    assert found.accuracy == pytest.approx([0.5, 2 / 3])
    assert found.ece == pytest.approx(3 / 4 * abs(p - 2 / 3))


def test_pairs_that_are_all_in_order_have_no_temperature():
    with pytest.raises(DataError, match="All of the 5 pairs are"):
        fit_temperature(np.ones(5))


def test_units_and_what_a_server_is_given():
    scores = generator().normal(size=50)
    labels = 2 * scores + 3
    labels[3] = np.nan
    assert fit_affine(scores, labels) == pytest.approx((2, 3))
    found = serving(scores)
    standard = (scores - found["logit_mean"]) / found["logit_sigma"]
    assert standard.mean() == pytest.approx(0, abs=1e-9)
    assert standard.std() == pytest.approx(1)
