"""The attack on margins whose distributions are known."""

import numpy as np
import pytest
from scipy.stats import norm

from mammo_dp.audit.membership import Attack, Fit
from mammo_dp.privacy.gaussian import gaussian_epsilon

RECORDS, MODELS, DELTA = 60, 800, 1e-4


def attack_of(mu: np.ndarray, *, seed: int = 0) -> Attack:
    """Margins that membership moves by mu standard deviations, another mean and scale for each record."""
    rng = np.random.default_rng(seed)
    members = rng.random((RECORDS, MODELS)) < 0.5
    scale = rng.uniform(0.5, 2, size=(RECORDS, 1))
    noise = rng.normal(size=(RECORDS, MODELS)) + mu[:, None] * members
    return Attack(rng.normal(size=(RECORDS, 1)) + scale * noise, members)


def test_separation_is_mu():
    mu = np.linspace(0, 3, RECORDS)
    fit = attack_of(mu).fit
    assert np.abs(fit.separation - mu).max() < 0.35  # standard error .07 at mu = 0, .1 at 3
    rates = norm.cdf(norm.ppf(0.01) + mu)
    assert np.abs(fit.true_positive_rate(0.01) - rates).max() < 0.15


def test_scores_are_likelihood_ratios():
    fit = Fit(np.array([1.0]), np.array([2.0]), np.array([0.0]), np.array([1.0]))
    expected = norm.logpdf(1.5, 1, 2) - norm.logpdf(1.5, 0, 1)
    assert fit.scores(np.array([[1.5]]))[0, 0] == pytest.approx(expected)


def test_rates_of_a_known_separation():
    rates = attack_of(np.full(RECORDS, 1.0)).rates(seed=0, alpha=0.05)
    assert rates["auc"]["value"] == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.01)
    assert rates["tpr_at_1_percent_fpr"]["value"] == pytest.approx(norm.cdf(norm.ppf(0.01) + 1), abs=0.02)
    for found in rates.values():
        assert found["low"] <= found["value"] <= found["high"]


def test_no_membership_no_success():
    """Negative control: the attack must not find what is not there."""
    attack = attack_of(np.zeros(RECORDS))
    assert attack.rates(seed=0, alpha=0.05)["auc"]["value"] == pytest.approx(0.5, abs=0.01)
    bound, _ = attack.mean_bound(alpha=0.05, delta=DELTA, gaussian=True)
    assert bound.epsilon(delta=DELTA, gaussian=True) == 0


def test_bounds_stay_below_the_truth_and_the_worst_record_is_found():
    mu = np.full(RECORDS, 0.3)
    mu[17] = 2.5
    above = 0
    for seed in range(20):
        attack = attack_of(mu, seed=seed)
        record, rates, ceiling = attack.worst_bound(alpha=0.05)
        mean, _ = attack.mean_bound(alpha=0.05, delta=DELTA, gaussian=True)
        above += rates.mu > 2.5 or mean.mu > 0.3
        assert record == 17
        assert 1.2 < rates.mu < ceiling.mu
    assert above <= 3  # at 5 % each


def test_the_mean_bound_sees_a_strong_attack():
    attack = attack_of(np.full(RECORDS, 3.0))
    bound, ceiling = attack.mean_bound(alpha=0.05, delta=DELTA, gaussian=True)
    at = {"delta": DELTA, "gaussian": True}
    assert gaussian_epsilon(3.0, delta=DELTA) > bound.epsilon(**at) > 3
    assert bound.epsilon(**at) < ceiling.epsilon(**at)
