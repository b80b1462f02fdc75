"""From (sampling rate, noise multiplier, steps) to epsilon, and back.

Poisson sampling is accounted by Opacus (PRV, or RDP as in the paper); a full batch by the exact formula of Gaussian
differential privacy (Dong, Roth, Su 2022, Cor. 2.13; Balle and Wang 2018, Thm. 8).
"""

import math
import warnings
from dataclasses import dataclass, replace
from typing import Literal

import opacus
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr

from mammo_dp.artifacts import Cache
from mammo_dp.errors import UserError

Accountant = Literal["prv", "rdp"]
MOST_NOISE = 1e5  # noise multiplier beyond which calibration gives up


@dataclass(frozen=True)
class Mechanism:
    """`steps` Gaussian mechanisms, each on a Poisson sample of rate `sample_rate` (1: on everything).

    `noise_multiplier` is the standard deviation of the noise over the clipping norm.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    @property
    def is_full_batch(self) -> bool:
        return self.sample_rate == 1.0

    def accountant(self, wanted: Accountant) -> str:
        """What accounts for it: the exact formula wherever it holds, else the wanted accountant."""
        return "gaussian" if self.is_full_batch else wanted


def epsilon(mechanism: Mechanism, *, delta: float, accountant: Accountant) -> float:
    """The epsilon that a mechanism spends at `delta`, add-or-remove adjacency."""
    if mechanism.steps == 0:
        return 0.0
    if mechanism.is_full_batch:
        return gaussian_epsilon(math.sqrt(mechanism.steps) / mechanism.noise_multiplier, delta=delta)
    opacus_accountant = {"prv": PRVAccountant, "rdp": RDPAccountant}[accountant]()
    opacus_accountant.history = [(mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        return float(opacus_accountant.get_epsilon(delta=delta))


def calibrate(
    *, target: float, delta: float, sample_rate: float, steps: int, accountant: Accountant, cache: Cache
) -> Mechanism:
    """The mechanism with the least noise (to 1e-4 of itself) that spends at most `target` epsilon."""
    key = ("calibrate", opacus.__version__, target, delta, sample_rate, steps, accountant)
    sigma = cache.get(*key)
    if sigma is None:
        sigma = _least_noise(
            target=target, delta=delta, sample_rate=sample_rate, steps=steps, accountant=accountant
        )
        cache.put(sigma, *key)
    return Mechanism(sample_rate, sigma, steps)


def _least_noise(
    *, target: float, delta: float, sample_rate: float, steps: int, accountant: Accountant
) -> float:
    def spent(sigma: float) -> float:
        return epsilon(Mechanism(sample_rate, sigma, steps), delta=delta, accountant=accountant)

    if accountant == "prv" and sample_rate < 1:  # RDP is quick and lies 3 to 8 % above: a narrow bracket
        high = _least_noise(
            target=target, delta=delta, sample_rate=sample_rate, steps=steps, accountant="rdp"
        )
        width, tolerance = 1.1, 1e-5
    else:
        high, width, tolerance = 1.0, 2.0, 1e-9
    while spent(high) > target:
        high *= width
        if high > MOST_NOISE:
            raise UserError(
                f"privacy.epsilon={target:g} is too small for privacy.accountant={accountant} to certify with any "
                "noise; ask for a larger epsilon (PRV resolves steps of 0.01)"
            )
    low = high / width
    while spent(low) <= target:
        low, high = low / width, low
    root = brentq(
        lambda s: math.log(max(spent(math.exp(s)), 1e-12) / target),
        math.log(low),
        math.log(high),
        xtol=tolerance,
    )
    sigma = math.exp(float(root))  # type: ignore[arg-type]
    while spent(sigma) > target:  # the root is approximate, the claim is not
        sigma *= 1 + 2 * tolerance
    return sigma


def first_step_at_least(
    fraction: float,
    mechanism: Mechanism,
    *,
    target: float,
    delta: float,
    accountant: Accountant,
    every: int,
    cache: Cache,
) -> int:
    """The first multiple of `every` steps by which at least `fraction` of `target` epsilon is spent.

    Spent epsilon grows with the steps, so bisection finds it in a few evaluations. Returns mechanism.steps + every
    if it is never reached.
    """
    key = ("first_step", opacus.__version__, fraction, target, delta, mechanism.__dict__, accountant, every)
    step = cache.get(*key)
    if step is None:
        low, high = 0, mechanism.steps // every + 1  # reached: not by `low`, by `high` (or never)
        while high - low > 1:
            middle = (low + high) // 2
            partial = replace(mechanism, steps=middle * every)
            enough = epsilon(partial, delta=delta, accountant=accountant) >= fraction * target
            low, high = (low, middle) if enough else (middle, high)
        step = high * every
        cache.put(step, *key)
    return step


def gaussian_delta(mu: float, *, epsilon: float) -> float:
    """delta(epsilon) of a mu-GDP mechanism: Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2)."""
    first, second = log_ndtr(-epsilon / mu + mu / 2), epsilon + log_ndtr(-epsilon / mu - mu / 2)
    return float(math.exp(first) * -math.expm1(min(second - first, 0.0)))


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """The smallest epsilon >= 0 at which a mu-GDP mechanism has at most `delta`."""
    if gaussian_delta(mu, epsilon=0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(mu, epsilon=high) > delta:
        high *= 2
    return float(brentq(lambda e: gaussian_delta(mu, epsilon=e) - delta, 0.0, high, xtol=1e-12, rtol=1e-14))  # type: ignore[arg-type]
