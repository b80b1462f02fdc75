"""Bounds hold as often as they say, and find what is there."""

import numpy as np
import pytest
from scipy.stats import norm

from mammo_dp.audit.bounds import Rates, fitted_mu, halves_bound, noise_ratio
from mammo_dp.privacy.gaussian import gaussian_epsilon

pytestmark = pytest.mark.slow

MU, ALPHA, DELTA = 1.0, 0.1, 1e-4


def test_rates_are_clopper_pearson_ends():
    rates = Rates.of_counts(50, 100, 0, 100, alpha=0.1)  # 95 % one-sided each
    assert rates.true_positive == pytest.approx(0.41364, abs=1e-4)
    assert rates.false_positive == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-9)  # rule of three, exactly
    assert (Rates.of_counts(0, 9, 9, 9, alpha=0.1).epsilon(delta=0.0, gaussian=False)) == 0.0


def test_epsilon_of_known_rates():
    rates = Rates(0.5, 0.1)
    assert rates.mu == pytest.approx(norm.ppf(0.5) - norm.ppf(0.1))
    assert rates.epsilon(delta=DELTA, gaussian=True) == pytest.approx(gaussian_epsilon(rates.mu, delta=DELTA))
    assert rates.epsilon(delta=0.1, gaussian=False) == pytest.approx(np.log(0.4 / 0.1))
    assert Rates(0.9, 0.5).epsilon(delta=0.0, gaussian=False) == pytest.approx(
        np.log(0.5 / 0.1)
    )  # of the misses
    assert Rates(0.1, 0.5).epsilon(delta=0.0, gaussian=True) == 0.0


def test_bernstein_margin_by_hand():
    hits, alarms = np.array([0.4, 0.6] * 50), np.array([0.1] * 100)
    rates = Rates.of_means(hits, alarms, largest=2.0, alpha=0.1)
    log = np.log(2 / 0.05)
    assert rates.false_positive == pytest.approx(0.1 + 7 * 2 * log / (3 * 99))
    margin = np.sqrt(2 * hits.var(ddof=1) * log / 100) + 7 * 2 * log / (3 * 99)
    assert rates.true_positive == pytest.approx(0.5 - margin)


@pytest.mark.parametrize("method", ["halves", "halves without normality", "fit"])
def test_at_most_alpha_of_bounds_lie_above_the_truth(method):
    rng, true = np.random.default_rng(1), gaussian_epsilon(MU, delta=DELTA)
    found = []
    for _ in range(200):
        inside, outside = rng.normal(MU, size=400), rng.normal(size=400)
        if method == "fit":
            found.append(gaussian_epsilon(fitted_mu(inside, outside, alpha=ALPHA), delta=DELTA))
        else:
            rates = halves_bound(inside, outside, alpha=ALPHA, delta=DELTA, gaussian=method == "halves")
            found.append(rates.epsilon(delta=DELTA, gaussian=method == "halves"))
    assert np.mean(np.array(found) > true) <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / 200)
    assert np.mean(found) > 0.3


def test_the_fit_is_as_tight_as_its_alpha():
    """Exact, not only valid: a share of about alpha lies above. 2,000 repetitions, standard error .0067."""
    rng = np.random.default_rng(2)
    above = [fitted_mu(rng.normal(MU, size=60), rng.normal(size=50), alpha=ALPHA) > MU for _ in range(2000)]
    assert np.mean(above) == pytest.approx(ALPHA, abs=0.02)


def test_nothing_is_found_where_nothing_is():
    rng = np.random.default_rng(3)
    assert fitted_mu(rng.normal(size=50), rng.normal(1.0, size=50), alpha=ALPHA) == 0.0


def test_noise_ratio_covers_the_truth():
    draws = 0.9 * np.random.default_rng(4).normal(size=8000)
    value, low, high = noise_ratio(float((draws**2).sum()), 8000, alpha=0.05)
    assert low < 0.9 < high < 1
    assert value == pytest.approx(0.9, abs=0.02)
