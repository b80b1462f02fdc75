"""Privacy loss distributions by Google's dp-accounting: the second accountant, groups, composition, the attack bound.

Nothing here shares code with Opacus. All distributions are pessimistic: what they say is an upper bound.
"""

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.stats import binom

from mammo_dp.errors import UserError
from mammo_dp.files import Cache, package_version
from mammo_dp.privacy.accounting import epsilon, opacus_epsilon
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gaussian import gaussian_epsilon, root

TOLERANCE = 0.05  # epsilon by which two accountants of the same mechanism may differ
FINEST = 1e-4  # grid of the privacy loss
MIXTURE_POINTS = 10_000


class AccountantsDisagree(UserError):
    """Two independent accountants give different epsilons for one mechanism: the claim cannot be trusted."""


Grouped = tuple[Mechanism, int]  # a mechanism, and how many of its records one unit brings


def grid(parts: Iterable[Grouped]) -> float:
    """Width of the grid of privacy losses: about 1e-5 of the epsilon to be expected, so that large ones stay cheap.

    Each point of a mixture's grid is found by root search, so the losses of its single step get at most MIXTURE_POINTS.
    """
    mu, widest = 0.0, FINEST
    for m, group in parts:
        shift = group * m.sensitivity / m.noise_multiplier
        mu = math.hypot(mu, m.sample_rate * shift * math.sqrt(m.steps))
        if group > 1 and not m.is_full_batch:
            widest = max(widest, (shift**2 / 2 + 8 * shift) / MIXTURE_POINTS)
    return max(widest, 1e-5 * (mu**2 / 2 + 4 * mu))


def distribution(mechanism: Mechanism, *, width: float, group: int = 1) -> pld.PrivacyLossDistribution:
    """Of all steps. `group` records at a time, each sampled by itself, move the sum by up to C each.

    A group is a mixture of Gaussians at 0 to `group`, binomially weighted (Ganesh 2024, "Tight group-level DP
    guarantees for DP-SGD with sampling via mixture of Gaussians mechanisms").
    """
    sigma = mechanism.noise_multiplier
    if mechanism.is_full_batch:
        one = pld.from_gaussian_mechanism(
            sigma, sensitivity=group * mechanism.sensitivity, value_discretization_interval=width
        )
    elif group == 1:
        one = pld.from_gaussian_mechanism(
            sigma, sampling_prob=mechanism.sample_rate, value_discretization_interval=width
        )
    else:
        sampled = binom.pmf(range(group + 1), group, mechanism.sample_rate)
        sizes, chances = zip(*((k, float(p)) for k, p in enumerate(sampled) if p > 0), strict=True)
        one = pld.from_mixture_gaussian_mechanism(sigma, sizes, chances, value_discretization_interval=width)
    return one.self_compose(mechanism.steps)


def composed(parts: Sequence[Grouped]) -> pld.PrivacyLossDistribution:
    """Of all the mechanisms together."""
    width = grid(parts)
    return reduce(
        lambda a, b: a.compose(b), (distribution(m, width=width, group=group) for m, group in parts)
    )


def pld_epsilon(mechanism: Mechanism, *, delta: float, group: int = 1, cache: Cache) -> float:
    """The epsilon that a mechanism spends at `delta`, for `group` records at a time."""
    key = ("pld", package_version("dp-accounting"), mechanism.__dict__, delta, group)
    found = cache.get(*key)
    if found is None:
        found = composed([(mechanism, group)]).get_epsilon_for_delta(delta)
        cache.put(found, *key)
    return float(found)


def group_epsilon(mechanism: Mechanism, *, images: int, delta: float, cache: Cache) -> float:
    """Epsilon of an image-level mechanism for a patient with `images` images: exact k mu for full batches, else PLD."""
    if mechanism.is_full_batch:
        return gaussian_epsilon(images * mechanism.mu, delta=delta)
    return pld_epsilon(mechanism, delta=delta, group=images, cache=cache)


def cross_check(mechanism: Mechanism, *, delta: float, cache: Cache) -> dict[str, float]:
    """The mechanism's epsilon by every accountant that covers it, and RDP's looseness.

    Raises AccountantsDisagree if the best of Opacus' (PRV, or the exact formula for full batches) and PLD differ by
    more than TOLERANCE, or if any lies more than TOLERANCE below PLD.
    """
    tight = "gaussian" if mechanism.is_full_batch else "prv"
    key = (
        "accountants",
        package_version("opacus"),
        package_version("dp-accounting"),
        mechanism.__dict__,
        delta,
    )
    found = cache.get(*key)
    if found is None:
        found = {
            tight: epsilon(mechanism, delta=delta, accountant="prv"),
            "rdp": opacus_epsilon(mechanism, delta=delta, accountant="rdp"),
            "pld": pld_epsilon(mechanism, delta=delta, cache=cache),
        }
        compare(found, tight=tight)
        cache.put(found, *key)  # none that contradict each other
    return {**found, "rdp_looseness": found["rdp"] - found["pld"]}


def compare(found: dict[str, float], *, tight: str) -> None:
    """Raise AccountantsDisagree if the epsilons of one mechanism contradict each other."""
    if not math.isfinite(found["pld"]):
        raise UserError(
            "the second accountant cannot certify this mechanism at such a small delta; set privacy.delta=1e-12 or more"
        )
    slack = max(TOLERANCE, 5e-4 * found["pld"])  # relative beyond epsilon 100: both work on grids
    low = [name for name, value in found.items() if value < found["pld"] - slack]
    if low or abs(found[tight] - found["pld"]) > slack:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        raise AccountantsDisagree(
            f"the accountants disagree about the same mechanism ({listed}; at most {slack:g} is allowed): this claim "
            "must not be published; report it with the versions of opacus and dp-accounting"
        )


def replaced_within_unit(mechanisms: list[Mechanism], *, delta: float) -> float:
    """Epsilon for replacing one record inside a unit that stays in the data, of mechanisms that protect whole units.

    The unit's clipped vector moves by up to 2C. Poisson sampling of a replaced vector is covered by no accountant
    here, so this is the smaller of two bounds. (a) Two steps, out with the unit and in again:
    delta(2e) <= delta(e) (1 + e^e). (b) Given the coins, a composition of full Gaussian steps at 2C; the divergence is
    jointly convex, so its mean over the number of steps that had the unit is a bound without amplification.
    """
    both = composed([(m, 1) for m in mechanisms])

    def two_steps(half: float) -> float:
        return (
            math.log(max(both.get_delta_for_epsilon(half), 1e-300))
            + np.logaddexp(0.0, half)
            - math.log(delta)
        )

    if two_steps(0.0) <= 0:
        return 0.0
    high = 1.0
    while two_steps(high) > 0 and high < 600:
        high *= 2
    first = 2 * root(two_steps, 0.0, high, xtol=2e-12) if two_steps(high) < 0 else math.inf
    return min(first, _given_the_coins(mechanisms, delta=delta))


def _given_the_coins(mechanisms: list[Mechanism], *, delta: float) -> float:
    """Bound (b), with each number of steps that have the unit cut at a tail of delta / 100."""
    tail = delta / (100 * len(mechanisms))
    mu = 0.0
    for m in mechanisms:
        steps = m.steps if m.is_full_batch else int(binom.isf(tail, m.steps, m.sample_rate))
        mu = math.hypot(mu, 2 * math.sqrt(steps) / m.noise_multiplier)
    return gaussian_epsilon(mu, delta=delta - tail * len(mechanisms))


def true_positive_rate(loss: pld.PrivacyLossDistribution, *, false_positive_rate: float) -> float:
    """The most that an attacker's true-positive rate can be, over every epsilon of the distribution's privacy curve."""
    points = np.concatenate([np.linspace(0, 10, 101)[:-1], np.geomspace(10, 1000, 60)])
    with np.errstate(over="ignore", invalid="ignore"):  # the library multiplies a mass of 0 by e^1000
        deltas = np.nan_to_num(np.asarray(loss.get_delta_for_epsilon(points.tolist())), nan=1.0)
    return min(1.0, float(_rates(points, deltas, false_positive_rate).min()))


def true_positive_rate_of_claim(claimed: float, *, delta: float, false_positive_rate: float) -> float:
    """The same from one (epsilon, delta) alone, which is weaker than the whole curve."""
    return min(1.0, float(_rates(np.array([claimed]), np.array([delta]), false_positive_rate).min()))


def advantage_of_claim(claimed: float, *, delta: float) -> float:
    """(e^eps - 1 + 2 delta) / (e^eps + 1), of one (epsilon, delta) (Humphries et al. 2023)."""
    return 1.0 if math.isinf(claimed) else math.tanh(claimed / 2) + 2 * delta / (math.exp(claimed) + 1)


def _rates(epsilons: np.ndarray, deltas: np.ndarray, rate: float) -> np.ndarray:
    """TPR <= e^eps FPR + delta and TPR <= 1 - e^-eps (1 - delta - FPR) (Kairouz, Oh, Viswanath 2015, Thm. 2.1)."""
    with np.errstate(over="ignore"):
        return np.minimum(np.exp(epsilons) * rate + deltas, 1 - np.exp(-epsilons) * (1 - deltas - rate))
