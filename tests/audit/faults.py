"""A small private study, and faults put into its trainer: what `stage=audit_privacy` has to find."""

from collections.abc import Callable

import torch

from mammo_dp.config.schema import Recipe
from mammo_dp.models.head import build_head
from mammo_dp.models.preparation import Preparation
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.privacy.sampling import NONE_LEFT, PoissonBatches, Randomness, ShuffledBatches
from mammo_dp.privacy.units import Units
from mammo_dp.training.features import CachedFeatures
from mammo_dp.training.head_trainer import HeadTrainer
from mammo_dp.training.plans import Plan
from tests.conftest import config_of

IMAGES, PATIENTS, FEATURES = 80, 60, 40
MEMBERS = [*([i] for i in range(40)), *([i, i + 1] for i in range(40, 80, 2))]

Fault = Callable[[HeadTrainer], None]


def trainer_of(
    mechanism: Mechanism,
    *,
    seed: int = 0,
    room: int = 0,
    recipe: Recipe | None = None,
    secure: bool = False,
    without: int | None = None,
) -> HeadTrainer:
    """60 patients, of whom 20 have two images; `room` empty units behind them; `without`: other data in one of them."""
    recipe = recipe or config_of("recipe=dp_gd").recipe
    if not mechanism.is_full_batch:
        recipe = recipe.model_copy(update={"batch_size": 15})
    g = torch.Generator().manual_seed(0)
    table, labels = torch.randn(IMAGES, 4, FEATURES, generator=g), torch.randint(2, (IMAGES,), generator=g)
    members = list(MEMBERS)
    if without is not None:
        table[members[without]], labels[members[without]] = 0, 1 - labels[members[without]]
        members[without] = []
    return HeadTrainer(
        build_head(recipe, features=FEATURES, seed=0),
        CachedFeatures(table, prepare=Preparation.of(recipe.model_dump())),
        Units([*members, *([] for _ in range(room))]),
        labels,
        plan=Plan(mechanism.steps, 1, mechanism, first_eligible_step=0, public_count=PATIENTS),
        recipe=recipe,
        randomness=Randomness(secure=secure, seed=seed, run="audit"),
        device=torch.device("cpu"),
    )


class Noise:
    """The trainer's own noise, changed by `change(noise, step, values)`."""

    sampler = "faulty"

    def __init__(self, own, change) -> None:
        self.own, self.change, self.step = own, change, 0

    def added(self, values: torch.Tensor, scale: float) -> torch.Tensor:
        noise = self.own.added(torch.zeros_like(values), scale)
        self.step += 1
        return self.change(noise, self.step - 1, values) + values


def _noise(change) -> Fault:
    def fault(trainer: HeadTrainer) -> None:
        trainer.optimizer.noise = Noise(trainer.optimizer.noise, change)

    return fault


def same_in_every_step(trainer: HeadTrainer) -> None:
    kept: list[torch.Tensor] = []
    _noise(lambda noise, step, values: kept[0] if kept else kept.append(noise) or noise)(trainer)


def one_draw_a_layer(noise, step, values):
    return noise.flatten()[0].expand_as(noise).clone()


def bare_last_step(trainer: HeadTrainer) -> None:
    last = trainer.plan.steps - 1
    _noise(lambda noise, step, values: noise * (step < last))(trainer)


def bare_biases(noise, step, values):
    noise = noise.clone()
    noise[:, -1] = 0
    return noise


def float32(noise, step, values):
    """The noisy sum of float32 sum and float32 noise, whose low bits are those of the sum."""
    return (values.float() + noise.float()).long() - values


def centred(trainer: HeadTrainer) -> None:
    """Features centred on their mean over the batch: one unit enters all others."""
    own = trainer._rows

    def rows(units, chosen, flips):
        found = list(own(units, chosen, flips))
        mean = torch.cat([x.flatten(0, 1) for _, x, _ in found] or [torch.zeros(1, FEATURES)]).mean(dim=0)
        return [(numbers, x - mean, y) for numbers, x, y in found]

    trainer._rows = rows


def class_balance_after_the_noise(trainer: HeadTrainer, first: int = 0) -> None:
    def add() -> None:
        if trainer.step_number >= first:
            trainer.trained[1].grad += trainer.labels.float().mean()

    trainer.optimizer.before_step = add


def image_by_image(trainer: HeadTrainer) -> None:
    """Each image of a patient clipped alone."""
    own = trainer.units.numbered

    def numbered(chosen):
        for numbers, positions in own(chosen):
            for column in positions.T:
                yield numbers, column[:, None]

    trainer.units.numbered = numbered


def not_clipped(trainer: HeadTrainer) -> None:
    own = trainer.private_sum

    def longer(chosen, **kwargs) -> GridSum:
        total = own(chosen, **kwargs)
        total._added = {number: 3 * block for number, block in total._added.items()}
        return total

    trainer.private_sum = longer


def twice_the_rate(trainer: HeadTrainer) -> None:
    rate = trainer.plan.mechanism.sample_rate
    trainer.batches = PoissonBatches(len(trainer.units), 2 * rate, trainer.batches_rng)


def shuffled(trainer: HeadTrainer) -> None:
    size = round(trainer.plan.mechanism.sample_rate * len(trainer.units))
    trainer.batches = ShuffledBatches(len(trainer.units), size, trainer.batches_rng, NONE_LEFT)


FULL: dict[str, Fault] = {
    "the same noise in every step": same_in_every_step,
    "one draw for all coordinates of a layer": _noise(one_draw_a_layer),
    "no noise in the last step": bare_last_step,
    "no noise on the biases": _noise(bare_biases),
    "float32 sums and noise": _noise(float32),
    "features centred on the private mean": centred,
    "class balance added after the noise": class_balance_after_the_noise,
    "images clipped, patients claimed": image_by_image,
    "three times the clipping norm": not_clipped,
    "90 % of the noise": _noise(lambda noise, step, values: (noise.double() * 0.9).long()),
    "the noise of the first class mirrored": _noise(
        lambda noise, step, values: torch.stack([noise[0], -noise[0]])
    ),
    "the noise repeats after ten steps": lambda trainer: _repeating(trainer, 10),
    "uniform noise of the same variance": _noise(
        lambda noise, step, values: (
            (torch.rand(noise.shape, dtype=torch.float64) - 0.5) * noise.double().std() * 12**0.5
        ).long()
    ),
}
FULL |= {
    "class balance added from step 50 on": lambda trainer: class_balance_after_the_noise(trainer, first=50),
    "a head started from the private class balance": lambda trainer: trainer.trained[1].data.add_(
        trainer.labels.float().mean()
    ),
    "less noise in the step than is observed": lambda trainer: _another_step(trainer),
}
POISSON: dict[str, Fault] = {
    "sampled at twice the rate": twice_the_rate,
    "shuffled, Poisson claimed": shuffled,
}


def _repeating(trainer: HeadTrainer, period: int) -> None:
    kept: list[torch.Tensor] = []

    def change(noise, step, values):
        if step < period:
            kept.append(noise)
        return kept[step % period]

    _noise(change)(trainer)


def _another_step(trainer: HeadTrainer) -> None:
    """The observer sees one noisy sum, and the weights move by the mean of it and the exact one."""
    own = trainer.optimizer._gradients

    def gradients(noisy, step):
        total = trainer.private_sum(torch.arange(len(trainer.units)))
        return [(a + b) / 2 for a, b in zip(own(noisy, step), own(total.blocks, step), strict=True)]

    trainer.optimizer._gradients = gradients
