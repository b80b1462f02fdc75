import math

import pytest
from scipy.stats import norm

from mammo_dp.privacy.gaussian import gaussian_delta, gaussian_epsilon, gaussian_true_positive_rate


@pytest.mark.slow
def test_gaussian_formula_against_the_trade_off_curve():
    """delta(eps) = sup over thresholds of TPR - e^eps FPR for N(0, 1) against N(mu, 1), by brute force."""
    for mu, eps in ((0.5, 0.3), (1.0, 1.0), (3.0, 6.0)):
        thresholds = [-10 + 20 * i / 20000 for i in range(20001)]
        brute = max(norm.sf(t - mu) - math.exp(eps) * norm.sf(t) for t in thresholds)
        assert gaussian_delta(mu, epsilon=eps) == pytest.approx(brute, rel=1e-5)
        assert gaussian_epsilon(mu, delta=brute) == pytest.approx(eps, rel=1e-4)


@pytest.mark.parametrize(("mu", "rate"), [(0.3139, 0.022), (1.4596, 0.19), (2.5304, 0.58), (3.7120, 0.92)])
def test_attack_bound(mu, rate):
    """mu of epsilon 1, 6, 12, 20 at delta 1e-4 (sqrt(100) over the full-batch noise multipliers)."""
    found = gaussian_true_positive_rate(mu, false_positive_rate=0.01)
    assert found == pytest.approx(rate, abs=0.006)
    assert found == pytest.approx(norm.sf(norm.isf(0.01) - mu), rel=1e-9)
