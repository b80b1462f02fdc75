"""From (sampling rate, noise multiplier, steps) to epsilon, and back.

Poisson sampling is accounted by Opacus (PRV, or RDP as in the paper); a full batch by the exact formula of Gaussian
differential privacy (Dong, Roth, Su 2022, Cor. 2.13; Balle and Wang 2018, Thm. 8).
"""

import math
import warnings
from dataclasses import replace
from typing import Literal

import opacus
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq

from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gaussian import gaussian_epsilon

Accountant = Literal["prv", "rdp", "gdp"]
MOST_NOISE = 1e5  # noise multiplier beyond which calibration gives up


def epsilon(mechanism: Mechanism, *, delta: float, accountant: Accountant) -> float:
    """The epsilon that a mechanism spends at `delta`. Raises ValueError for `gdp` under Poisson sampling."""
    if mechanism.steps == 0:
        return 0.0
    if mechanism.is_full_batch:
        return gaussian_epsilon(mechanism.mu, delta=delta)
    if accountant == "gdp":
        raise ValueError("Gaussian differential privacy can underestimate under Poisson sampling")
    return opacus_epsilon(mechanism, delta=delta, accountant=accountant)


def opacus_epsilon(mechanism: Mechanism, *, delta: float, accountant: Literal["prv", "rdp"]) -> float:
    """What Opacus' accountant says, also of full batches, where the exact formula is better.

    Opacus knows sensitivity 1 only; at sensitivity s (full batches) the noise counts as sigma / s.
    """
    opacus_accountant = {"prv": PRVAccountant, "rdp": RDPAccountant}[accountant]()
    sigma = mechanism.noise_multiplier / mechanism.sensitivity
    opacus_accountant.history = [(sigma, mechanism.sample_rate, mechanism.steps)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        return float(opacus_accountant.get_epsilon(delta=delta))


def calibrate(
    *,
    target: float,
    delta: float,
    sample_rate: float,
    steps: int,
    accountant: Accountant,
    cache: Cache,
    sensitivity: float = 1.0,
    section: str = "privacy",
) -> Mechanism:
    """The mechanism with the least noise (to 1e-4 of itself) that spends at most `target` epsilon.

    `section`: of the configuration, for the message of the UserError where no noise is enough.
    """
    key = ("calibrate", opacus.__version__, target, delta, sample_rate, steps, accountant, sensitivity)
    sigma = cache.get(*key)
    if sigma is None:
        mechanism = Mechanism(sample_rate, 1.0, steps, sensitivity)
        try:
            sigma = _least_noise(mechanism, target=target, delta=delta, accountant=accountant)
        except _NoNoiseIsEnough:
            raise UserError(
                f"{section}.epsilon={target:g} is too small for {section}.accountant={accountant} to certify with any "
                "noise; ask for a larger epsilon (PRV resolves steps of 0.01)"
            ) from None
        cache.put(sigma, *key)
    return Mechanism(sample_rate, sigma, steps, sensitivity)


class _NoNoiseIsEnough(Exception):
    pass


def _least_noise(mechanism: Mechanism, *, target: float, delta: float, accountant: Accountant) -> float:
    def spent(sigma: float) -> float:
        return epsilon(replace(mechanism, noise_multiplier=sigma), delta=delta, accountant=accountant)

    if (
        accountant == "prv" and not mechanism.is_full_batch
    ):  # RDP is quick and 3 to 8 % above: a narrow bracket
        high = _least_noise(mechanism, target=target, delta=delta, accountant="rdp")
        width, tolerance = 1.1, 1e-5
    else:
        high, width, tolerance = 1.0, 2.0, 1e-9
    while spent(high) > target:
        high *= width
        if high > MOST_NOISE:
            raise _NoNoiseIsEnough
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
