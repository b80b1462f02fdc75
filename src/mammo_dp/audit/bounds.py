"""From an attack's successes to a lower bound of epsilon that holds in all but `alpha` of audits.

A mu-GDP mechanism keeps every test below the trade-off curve, Phi^-1(TPR) - Phi^-1(FPR) <= mu (Dong, Roth, Su 2022); an
(epsilon, delta)-DP one keeps TPR <= e^eps FPR + delta, and the same of the complements (Kairouz et al. 2015). Each
rate is taken at its worst end: alpha / 2 each.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import beta, chi2, nct

from mammo_dp.privacy.gaussian import gaussian_epsilon, root


@dataclass(frozen=True)
class Rates:
    """The least true-positive and the most false-positive rate that the observations leave open."""

    true_positive: float
    false_positive: float

    @classmethod
    def of_counts(cls, hits: int, members: int, alarms: int, others: int, *, alpha: float) -> "Rates":
        """Independent guesses: `hits` of `members`, `alarms` of `others` (Clopper and Pearson 1934)."""
        least = float(beta.ppf(alpha / 2, hits, members - hits + 1)) if hits else 0.0
        most = float(beta.ppf(1 - alpha / 2, alarms + 1, others - alarms)) if alarms < others else 1.0
        return cls(least, most)

    @classmethod
    def of_means(cls, hits: np.ndarray, alarms: np.ndarray, *, largest: float, alpha: float) -> "Rates":
        """Means of independent repetitions, each in [0, largest], by the empirical Bernstein inequality.

        Maurer and Pontil 2009, Thm. 4. It asks for nothing but independence: guesses on units of one model are not
        independent of each other, models are.
        """
        margins = [_bernstein_margin(values, largest=largest, alpha=alpha / 2) for values in (hits, alarms)]
        ends = float(hits.mean()) - margins[0], float(alarms.mean()) + margins[1]
        return cls(min(max(ends[0], 0.0), 1.0), min(ends[1], 1.0))

    @property
    def mu(self) -> float:
        """The mu that these rates need at least; infinite if they cannot be distinguished from certainty."""
        if self.true_positive <= self.false_positive:
            return 0.0
        return float(ndtri(self.true_positive) - ndtri(self.false_positive))

    def epsilon(self, *, delta: float, gaussian: bool) -> float:
        """The epsilon at `delta` that these rates need at least. gaussian: the mechanism is known to be mu-GDP."""
        if gaussian:
            return gaussian_epsilon(self.mu, delta=delta)
        sides = ((self.true_positive, self.false_positive), (1 - self.false_positive, 1 - self.true_positive))
        bounds = [math.log((right - delta) / wrong) for right, wrong in sides if right - delta > wrong > 0]
        return max(bounds, default=0.0)


def _bernstein_margin(values: np.ndarray, *, largest: float, alpha: float) -> float:
    count, log = len(values), math.log(2 / alpha)
    spread = math.sqrt(2 * float(values.var(ddof=1)) * log / count)
    return spread + 7 * largest * log / (3 * (count - 1))


def fitted_mu(members: np.ndarray, others: np.ndarray, *, alpha: float) -> float:
    """Lower bound of mu where both sets of scores are normal with one variance: the exact one of a t statistic.

    members, others: (n,), (k,) independent scores. The separation over the spread is mu itself.
    """
    n, k = len(members), len(others)
    pooled = ((n - 1) * members.var(ddof=1) + (k - 1) * others.var(ddof=1)) / (n + k - 2)
    scale = math.sqrt(n * k / (n + k))
    separation = float(members.mean() - others.mean()) / math.sqrt(max(pooled, 1e-300))
    seen = min(separation, LARGEST_MU) * scale  # the bound grows with it, so a smaller one is as valid
    excess = lambda mu: float(nct.sf(seen, n + k - 2, mu * scale)) - alpha  # noqa: E731
    if seen <= 0 or excess(0.0) >= 0:
        return 0.0
    return root(excess, 0.0, seen / scale, xtol=1e-9)


def noise_ratio(total: float, count: int, *, alpha: float) -> tuple[float, float, float]:
    """The standard deviation of `count` draws with mean zero, and the ends of its interval (chi-squared).

    total: the sum of their squares.
    """
    low, high = (total / chi2.ppf(p, count) for p in (1 - alpha / 2, alpha / 2))
    return math.sqrt(total / count), math.sqrt(low), math.sqrt(high)


def halves_bound(
    in_scores: np.ndarray, out_scores: np.ndarray, *, alpha: float, delta: float, gaussian: bool
) -> Rates:
    """Rates at a threshold that the first half of the scores chose, measured on the second half.

    in_scores, out_scores: (n,), (k,) independent, in no order. Choosing on the same scores would void `alpha`.
    """
    first = [scores[: len(scores) // 2] for scores in (in_scores, out_scores)]
    second = [scores[len(scores) // 2 :] for scores in (in_scores, out_scores)]
    candidates = np.quantile(np.concatenate(first), np.linspace(0, 1, CANDIDATES + 2)[1:-1])
    best = max(
        candidates,
        key=lambda t: rates_at(*first, threshold=t, alpha=alpha).epsilon(delta=delta, gaussian=gaussian),
    )
    return rates_at(*second, threshold=best, alpha=alpha)


def rates_at(in_scores: np.ndarray, out_scores: np.ndarray, *, threshold: float, alpha: float) -> Rates:
    """Of calling members all whose score is above the threshold."""
    hits, alarms = int((in_scores > threshold).sum()), int((out_scores > threshold).sum())
    return Rates.of_counts(hits, len(in_scores), alarms, len(out_scores), alpha=alpha)


CANDIDATES = 100  # thresholds that are compared
LARGEST_MU = 100.0  # that a fit tells apart
