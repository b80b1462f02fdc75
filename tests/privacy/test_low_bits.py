"""The attack on the low bits of noisy sums (Mironov 2012; Haney et al. 2022), on every recipe and the discriminator.

Somebody who has the data asks of each patient: could these sums have come from the data without that patient? In
floating point the answer is no for some coordinates of every member. Two attackers: one who knows that noise lies on
the grid, and the published one, who looks for float32 noise that explains what was released.
"""

import numpy as np
import pytest
import torch

from mammo_dp.files import Cache
from mammo_dp.models.mcgan import build_gan
from mammo_dp.privacy.accounting import calibrate
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.gan_trainer import GanTrainer
from mammo_dp.training.plans import Plan
from tests.audit.faults import float32, trainer_of
from tests.conftest import config_of

pytestmark = pytest.mark.slow

WORLDS, DELTA = 20, 1e-4
TINY_GAN = (
    "gan.size=16", "gan.generator_channels=[8,4]", "gan.discriminator_channels=[4,8]", "gan.batch_size=8",
    "gan.privacy.epsilon=10", "gan.privacy.public_count=40", "dataset=toy", "patches.size=16", "stage=train_gan",
)  # fmt: skip


def head(recipe: str, sigma: float, steps: int, secure: bool):
    chosen = config_of(f"recipe={recipe}").recipe
    rate = 1.0 if chosen.batch_size is None else 0.25
    if chosen.select == "best_val":
        chosen = chosen.model_copy(update={"select": "last", "flips": "none"})
    return trainer_of(Mechanism(rate, sigma, steps), recipe=chosen, secure=secure)


def discriminator(recipe: str, sigma: float, steps: int, secure: bool):
    config = config_of(*TINY_GAN)
    g = torch.Generator().manual_seed(0)
    trainer = GanTrainer(
        build_gan(config.gan), torch.randint(256, (40, 16, 16), generator=g, dtype=torch.uint8),
        torch.randint(2, (40,), generator=g), Units.of_each(range(40)),
        plan=Plan(steps, 5, Mechanism(0.2, sigma, steps), first_eligible_step=0, public_count=40),
        settings=config.gan.model_copy(update={"flips": False, "zoom": [1.0, 1.0], "aspect": [1.0, 1.0],
                                               "real_target": [1.0, 1.0]}),
        runtime=config.runtime, randomness=Randomness(secure, 0, "run"), device=torch.device("cpu"),
    )  # fmt: skip
    return trainer


TRAINERS = {"dp_gd": head, "dp_rule": head, "paper": head, "discriminator": discriminator}


def released_and_worlds(trainer, steps: int) -> tuple[GridSum, list[torch.Tensor], list[list[torch.Tensor]]]:
    """The last step's exact sum, its noisy sum, and the exact sums that WORLDS without one drawn unit would have."""
    seen = []
    trainer.optimizer.observer = lambda total, noisy: seen.append((total, noisy))
    for _ in range(steps - 1):
        trainer.step()
    chosen = trainer.batches.next()
    chosen = chosen if len(chosen) >= 2 else torch.arange(len(trainer.units))
    state = trainer.batches_rng.get_state()
    total = trainer.private_sum(chosen)
    others = [trainer.private_sum(chosen[chosen != gone]).blocks for gone in chosen[:WORLDS]]
    trainer.batches_rng.set_state(state)
    noisy = total.released(trainer.optimizer.noise, trainer.optimizer.noise_multiplier)
    return total, noisy, others


def off_the_grid(noisy: list[torch.Tensor], world: list[torch.Tensor], scale: float) -> int:
    """Coordinates that no noise of the mechanism explains under a world: no integer, or 12 standard deviations away."""
    found = 0
    for y, s in zip(noisy, world, strict=True):
        noise = y - s
        found += int((noise.abs() > 12 * scale).sum()) + int(
            (y != y.round()).sum() if y.is_floating_point() else 0
        )
    return found


def impossible_in_float32(noisy: list[torch.Tensor], world: list[torch.Tensor]) -> int:
    """Coordinates of the float32 noisy sum for which no float32 noise is found near the difference."""
    y, s = (
        torch.cat([b.flatten() for b in blocks]).double().numpy().astype(np.float32)
        for blocks in (noisy, world)
    )
    possible = np.zeros(len(y), dtype=bool)
    nearest = (y.astype(np.float64) - s.astype(np.float64)).astype(np.float32)
    for direction in (-np.inf, np.inf):
        noise = nearest.copy()
        for _ in range(3):
            possible |= (s + noise).astype(np.float32) == y
            noise = np.nextafter(noise, np.float32(direction))
    return int((~possible).sum())


def convicts(total: GridSum, noisy, others) -> bool:
    """Whether the float32 attacker tells the true data from every world without one of its patients."""
    true = impossible_in_float32(noisy, total.blocks)
    return true == 0 and min(impossible_in_float32(noisy, world) for world in others) > 0


@pytest.mark.parametrize("steps", ["one step", "default"])
@pytest.mark.parametrize("epsilon", [1.0, 6.0])
@pytest.mark.parametrize("name", TRAINERS)
def test_no_world_without_a_patient_is_impossible(name, epsilon, steps, tmp_path_factory):
    recipe = "paper" if name == "discriminator" else name
    count = 1 if steps == "one step" else 200 if recipe != "paper" else 120
    rate = {"dp_gd": 1.0, "dp_rule": 1.0, "paper": 0.25, "discriminator": 0.2}[name]
    cache = Cache(tmp_path_factory.getbasetemp() / "cache")
    mechanism = calibrate(
        target=epsilon, delta=DELTA, sample_rate=rate, steps=count, accountant="rdp", cache=cache
    )
    trainer = TRAINERS[name](recipe, mechanism.noise_multiplier, count, secure=True)
    total, noisy, others = released_and_worlds(trainer, min(count, 3))
    scale = mechanism.noise_multiplier * total.clip / total.step
    assert [off_the_grid(noisy, world, scale) for world in (total.blocks, *others)] == [0] * (len(others) + 1)
    assert not convicts(total, noisy, others)
    low = torch.cat([b.flatten() for b in noisy]) & 15
    assert (torch.bincount(low, minlength=16) > 0).sum() >= 12 or len(low) < 60


@pytest.mark.parametrize("name", ["dp_gd", "discriminator"])
def test_a_float32_path_is_convicted(name):
    """Negative control: float32 sums and float32 noise name every patient that is asked for."""
    trainer = TRAINERS[name]("dp_gd", 9.689, 200, secure=True)
    own = trainer.optimizer.noise

    class Float32:
        def added(self, values, scale):
            return float32(own.added(torch.zeros_like(values), scale), 0, values) + values

    trainer.optimizer.noise = Float32()
    assert convicts(*released_and_worlds(trainer, 1))


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("name", ["dp_gd", "paper"])
def test_the_order_of_patients_does_not_show(name, secure):
    """The noisy sum of permuted patients is the same bit for bit."""
    first, second = (TRAINERS[name](name, 4.0, 10, secure) for _ in range(2))
    order = torch.randperm(len(first.units), generator=torch.Generator().manual_seed(5))
    members = second.units.members()
    second.units = Units([members[number] for number in order.tolist()])
    everyone = torch.arange(len(order))
    for a, b in zip(first.private_sum(everyone).blocks, second.private_sum(everyone).blocks, strict=True):
        assert torch.equal(a, b)
