"""Gaussian differential privacy, exact for full batches (Dong, Roth, Su 2022, Cor. 2.13; Balle, Wang 2018, Thm. 8)."""

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri


def root(
    function: Callable[[float], float], low: float, high: float, *, xtol: float, rtol: float = 1e-14
) -> float:
    """Where `function` changes its sign between low and high."""
    return float(brentq(function, low, high, xtol=xtol, rtol=rtol))  # pyright: ignore[reportArgumentType]


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
    return root(lambda e: gaussian_delta(mu, epsilon=e) - delta, 0.0, high, xtol=1e-12)


def gaussian_true_positive_rate(mu: float, *, false_positive_rate: float) -> float:
    """The most that an attacker's true-positive rate can be: Phi(Phi^-1(FPR) + mu)."""
    return float(ndtr(ndtri(false_positive_rate) + mu))


def gaussian_advantage(mu: float) -> float:
    """The most that an attacker's true-positive rate exceeds the false-positive one: 2 Phi(mu / 2) - 1."""
    return float(2 * ndtr(mu / 2) - 1)


def gaussian_mu(epsilon: float, *, delta: float) -> float:
    """The mu whose epsilon at `delta` this is: the inverse of `gaussian_epsilon`."""
    if epsilon <= 0:
        return 0.0
    if math.isinf(epsilon):
        return math.inf
    low, high = 1e-9, 1.0
    if gaussian_delta(low, epsilon=epsilon) >= delta:
        return 0.0
    while gaussian_delta(high, epsilon=epsilon) < delta:
        high *= 2
    return root(lambda mu: gaussian_delta(mu, epsilon=epsilon) - delta, low, high, xtol=1e-12)
