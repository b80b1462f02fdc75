"""What a manifest says of a training mechanism by itself; the ledger says what a whole run amounts to."""

from typing import Any

from mammo_dp.files import Cache
from mammo_dp.privacy.events import Adjacency
from mammo_dp.privacy.loss_distribution import cross_check
from mammo_dp.privacy.mechanism import grid_step, noise_scale
from mammo_dp.privacy.noise import NoiseSource
from mammo_dp.privacy.planning import Plan
from mammo_dp.sections import GanPrivacy, Privacy


def mechanism_record(
    privacy: Privacy | GanPrivacy,
    plan: Plan,
    *,
    adjacency: Adjacency,
    max_grad_norm: float,
    noise: NoiseSource | None,
    cache: Cache,
) -> dict[str, Any]:
    """The spent epsilon by every accountant, and all that it follows from.

    It is that of the whole run even where an earlier epoch was selected: the choice looked at all of them.
    """
    mechanism = plan.mechanism
    if mechanism is None or noise is None:
        return {"unit": privacy.unit, "epsilon": float("inf"), "epsilon_spent": float("inf")}
    every = cross_check(mechanism, delta=privacy.delta, cache=cache)
    accountant = mechanism.accountant(privacy.accountant)
    return {
        "unit": privacy.unit,
        "adjacency": adjacency,
        "epsilon": privacy.epsilon,
        "epsilon_spent": every[accountant],
        "mu": mechanism.mu if mechanism.is_full_batch else None,
        "delta": privacy.delta,
        "noise_multiplier": mechanism.noise_multiplier,
        "sensitivity": mechanism.sensitivity,
        "sample_rate": mechanism.sample_rate,
        "steps": mechanism.steps,
        "accountant": accountant,
        "accountants": every,
        "max_grad_norm": max_grad_norm,
        "public_count": plan.public_count,
        "randomness": privacy.randomness,
        "noise": noise.sampler,
        "grid_step": grid_step(max_grad_norm),
        "noise_scale_in_grid_steps": noise_scale(mechanism.noise_multiplier, max_grad_norm),
        "sensitivity_in_grid_steps": mechanism.sensitivity * max_grad_norm / grid_step(max_grad_norm),
    }
