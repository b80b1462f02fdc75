"""The plan of a training run: one frozen record couples sampling, clipping, noise and steps, before the first step."""

import math
from dataclasses import dataclass
from typing import Any

from mammo_dp.config import Config
from mammo_dp.config.schema import GanPrivacy, Privacy
from mammo_dp.files import Cache
from mammo_dp.privacy.accounting import calibrate, first_step_at_least
from mammo_dp.privacy.events import SENSITIVITY, Adjacency, Mechanism

ELIGIBLE = 0.75  # of the target epsilon, before which the paper considers no epoch; its 1.05 is never reached


@dataclass(frozen=True)
class Plan:
    """Everything that fixes the guarantee."""

    steps: int
    steps_per_epoch: int
    mechanism: Mechanism | None  # None: not private
    first_eligible_step: int  # of an epoch that best_val may choose
    public_count: int  # units; none of the private sizes enters a private run
    private_share: float = 1.0  # of the private mean in a step; the rest is that of public gradients

    @property
    def divisor(self) -> float:
        """The expected batch of the published training set, which a private sum is divided by."""
        assert self.mechanism is not None
        return self.mechanism.sample_rate * self.public_count

    @property
    def epochs(self) -> int:
        return self.steps // self.steps_per_epoch


def make_plan(config: Config, *, units: int, cache: Cache) -> Plan:
    """The plan of a run; `units`, the true size of the training set, is used only where nothing is private."""
    privacy = config.privacy
    if not privacy.is_private:
        per_epoch = _steps_per_epoch(config, units)
        return Plan(
            config.recipe.epochs * per_epoch, per_epoch, None, first_eligible_step=0, public_count=units
        )
    mechanism = private_mechanism(config, cache)
    assert config.public_count is not None  # Config refuses private runs without one
    per_epoch = _steps_per_epoch(config, config.public_count)
    first = 0
    if config.recipe.select == "best_val":
        first = first_step_at_least(
            ELIGIBLE,
            mechanism,
            target=privacy.epsilon,
            delta=privacy.delta,
            accountant=privacy.accountant,
            every=per_epoch,
            cache=cache,
        )
    synthetic, share = config.synthetic, 1.0
    if config.experiment.uses_synthetic and synthetic.role == "public":
        share = config.public_count / (config.public_count + synthetic.weight * synthetic.count)
    return Plan(
        mechanism.steps, per_epoch, mechanism, first_eligible_step=first, public_count=config.public_count,
        private_share=share,
    )  # fmt: skip


def private_mechanism(config: Config, cache: Cache) -> Mechanism:
    """The mechanism of a private run, from the configuration alone: q, steps and noise know no private size."""
    assert config.public_count is not None  # Config refuses private runs without one
    return _calibrated(
        config.privacy,
        per_epoch=_steps_per_epoch(config, config.public_count),
        epochs=config.recipe.epochs,
        adjacency=config.privacy.adjacency,
        section="privacy",
        cache=cache,
    )


def make_generator_plan(config: Config, *, images: int, cache: Cache) -> Plan:
    """The plan of the discriminator, which alone sees real images.

    `images`, the true size of the training set, is used only where nothing is private.
    """
    mechanism, batch_size = None, config.gan.batch_size
    count = images
    if config.gan.privacy.is_private:
        mechanism = generator_mechanism(config, cache)
        assert config.generator_count is not None  # Config refuses private generators without one
        count = config.generator_count
    per_epoch = math.ceil(count / batch_size)
    return Plan(
        config.gan.epochs * per_epoch, per_epoch, mechanism, first_eligible_step=0, public_count=count
    )


def generator_mechanism(config: Config, cache: Cache) -> Mechanism:
    """The mechanism of a private generator: one for each step of the discriminator, from the configuration alone."""
    assert config.generator_count is not None  # Config refuses private generators without one
    return _calibrated(
        config.gan.privacy,
        per_epoch=math.ceil(config.generator_count / config.gan.batch_size),
        epochs=config.gan.epochs,
        adjacency="zero_out",
        section="gan.privacy",
        cache=cache,
    )


def _calibrated(
    privacy: Privacy | GanPrivacy,
    *,
    per_epoch: int,
    epochs: int,
    adjacency: Adjacency,
    section: str,
    cache: Cache,
) -> Mechanism:
    return calibrate(
        target=privacy.epsilon,
        delta=privacy.delta,
        sample_rate=1 / per_epoch,
        steps=epochs * per_epoch,
        accountant=privacy.accountant,
        sensitivity=SENSITIVITY[adjacency],
        cache=cache,
        section=section,
    )


def _steps_per_epoch(config: Config, count: int) -> int:
    batch_size = config.recipe.batch_size
    return 1 if batch_size is None else math.ceil(count / batch_size)


def mechanism_record(
    privacy: Privacy | GanPrivacy,
    plan: Plan,
    *,
    adjacency: Adjacency,
    max_grad_norm: float,
    sampler: str | None,
    cache: Cache,
) -> dict[str, Any]:
    """What a manifest says of a training mechanism by itself; the ledger says what a whole run amounts to.

    The spent epsilon by every accountant, and all that it follows from.

    It is that of the whole run even where an earlier epoch was selected: the choice looked at all of them.
    """
    mechanism = plan.mechanism
    if mechanism is None or sampler is None:
        return {"unit": privacy.unit, "epsilon": float("inf"), "epsilon_spent": float("inf")}
    from mammo_dp.privacy.loss_distribution import cross_check  # loads a second accountant
    from mammo_dp.privacy.mechanism import grid_step, noise_scale

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
        "noise": sampler,
        "grid_step": grid_step(max_grad_norm),
        "noise_scale_in_grid_steps": noise_scale(mechanism.noise_multiplier, max_grad_norm),
        "sensitivity_in_grid_steps": mechanism.sensitivity * max_grad_norm / grid_step(max_grad_norm),
    }
