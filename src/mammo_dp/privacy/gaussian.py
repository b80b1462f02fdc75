"""Gaussian differential privacy, exact for full batches (Dong, Roth, Su 2022, Cor. 2.13; Balle, Wang 2018, Thm. 8)."""

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri


def gaussian_delta(mu: float, *, epsilon: float) -> float:
    """delta(epsilon) of a mu-GDP mechanism: Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2)."""
    first, second = log_ndtr(-epsilon / mu + mu / 2), epsilon + log_ndtr(-epsilon / mu - mu / 2)
    return float(math.exp(first) * -math.expm1(min(second - first, 0.0)))


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """The smallest epsilon >= 0 at which a mu-GDP mechanism has at most `delta`."""
    if mu == 0 or gaussian_delta(mu, epsilon=0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(mu, epsilon=high) > delta:
        high *= 2
    return float(brentq(lambda e: gaussian_delta(mu, epsilon=e) - delta, 0.0, high, xtol=1e-12, rtol=1e-14))  # type: ignore[arg-type]


def gaussian_true_positive_rate(mu: float, *, false_positive_rate: float) -> float:
    """The most that an attacker's true-positive rate can be: Phi(Phi^-1(FPR) + mu)."""
    return float(ndtr(ndtri(false_positive_rate) + mu))
