"""One-run auditing against brute force, against google-deepmind/jax_privacy's pinned bounds, and by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from mammo_dp.audit.one_run import contradicts_mu, guesses_of, one_run_epsilon, one_run_mu, p_value
from mammo_dp.privacy.gaussian import gaussian_epsilon


def by_hand(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 term by term, in exact combinatorics and sums of Python floats."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [
        math.exp(
            math.lgamma(guesses + 1) - math.lgamma(k + 1) - math.lgamma(guesses - k + 1)
            + k * math.log(q) + (guesses - k) * math.log1p(-q)
        )
        for k in range(guesses + 1)
    ]  # fmt: skip
    tail = math.fsum(mass[correct:])
    most = max((math.fsum(mass[correct - i : correct]) / i for i in range(1, correct + 1)), default=0.0)
    return min(1.0, tail + 2 * canaries * delta * most)


@pytest.mark.parametrize("n", [10, 100, 1000])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
def test_p_value_equals_the_sum_by_hand(n, epsilon, delta):
    for correct in (1, n // 2, int(0.8 * n), n):
        given = {"canaries": 2 * n, "guesses": n, "correct": correct, "epsilon": epsilon, "delta": delta}
        assert p_value(**given) == pytest.approx(by_hand(**given), rel=1e-9, abs=1e-300)


# lower bounds of google-deepmind/jax_privacy 2.0.0 (epsilon_one_run, epsilon_one_run_fdp; default strategy,
# significance 0.05, delta 1e-6) for the same scores, as it prints them
THEIRS = {1: (1.1334595, 2.1647492), 2: (2.3119452, 4.7218064), 4: (4.3955677, 9.1337519)}


@pytest.mark.parametrize("shift", THEIRS)
def test_bounds_are_at_least_as_tight_as_those_of_jax_privacy(shift):
    scores = norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    plain, gaussian = THEIRS[shift]
    assert one_run_epsilon(scores + shift, scores, alpha=0.05, delta=1e-6) >= plain
    mu = one_run_mu(scores + shift, scores, alpha=0.05)
    assert gaussian <= gaussian_epsilon(mu, delta=1e-6) < gaussian_epsilon(shift, delta=1e-6)


def test_gaussian_bounds_stay_below_the_true_mu_and_say_more():
    """200 audits of 400 canaries with mu 1; and at mu 0, where nothing is slack."""
    rng = np.random.default_rng(3)
    for mu in (0.0, 1.0):
        bounds = []
        for _ in range(200):
            members = rng.random(400) < 0.5
            scores = rng.normal(size=400) + mu * members
            bounds.append(one_run_mu(scores[members], scores[~members], alpha=0.05))
        assert np.mean(np.array(bounds) > mu) <= 0.05 + 2 * 0.0154
    assert np.mean(bounds) > 0.4


def test_guesses_are_settled_without_looking_at_who_is_a_member():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=101)
    counts = {tuple(n for n, _ in guesses_of(scores[:k], scores[k:])) for k in (10, 50, 90)}
    assert counts == {(100, 50, 24, 12)}
    assert dict(guesses_of(np.ones(50), np.zeros(50)))[100] == 100


def test_more_right_guesses_contradict_more():
    given = {"canaries": 400, "guesses": 400, "alpha": 0.05}
    assert not contradicts_mu(correct=200, mu=1e-6, **given)
    assert contradicts_mu(correct=300, mu=0.3, **given)
    assert not contradicts_mu(correct=300, mu=1.0, **given)
    assert contradicts_mu(correct=380, mu=1.0, **given)


def test_bounds_stay_below_the_true_epsilon():
    """Gaussian canaries of a known mu; at most 5 % of bounds may lie above its epsilon."""
    rng, mu, delta = np.random.default_rng(0), 1.0, 1e-5
    true = gaussian_epsilon(mu, delta=delta)
    bounds = []
    for _ in range(100):
        members = rng.random(400) < 0.5
        scores = rng.normal(size=400) + mu * members
        bounds.append(one_run_epsilon(scores[members], scores[~members], alpha=0.05, delta=delta))
    assert np.mean(np.array(bounds) > true) <= 0.05
    assert np.mean(bounds) > 0.3  # and say something


def test_scores_that_know_nothing_give_a_bound_in_at_most_alpha_of_audits():
    """A true epsilon of 0 leaves no slack: standard error .007 over 1,000 audits at 5 %."""
    rng = np.random.default_rng(1)
    above = 0
    for _ in range(1000):
        members, scores = rng.random(400) < 0.5, rng.normal(size=400)
        above += one_run_epsilon(scores[members], scores[~members], alpha=0.05, delta=0.0) > 0
    assert above <= 50 + 2 * 7


def test_a_broken_mechanism_is_found():
    """Negative control: canaries that are always found need a large epsilon."""
    assert one_run_epsilon(np.ones(200), np.zeros(200), alpha=0.05, delta=1e-6) > 3
