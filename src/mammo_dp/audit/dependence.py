"""Whether a unit reaches anything but its own clipped contribution: exact checks of the trainer on the real units.

The sum of a step must be the sum of what its units contribute alone (additivity), no unit alone may be longer than C,
and under replayed noise a run with other data in place of one unit must end in the same weights (pairs). Released
weights of linear heads are checked for the noise that they should carry.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mammo_dp.config.schema import Recipe
from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.training.head_trainer import HeadTrainer
from mammo_dp.training.network_trainer import NetworkTrainer
from mammo_dp.training.optimizers import inner_optimizer
from mammo_dp.training.plans import Plan
from mammo_dp.training.selection import iterate_weight
from mammo_dp.training.trainer import ClassifierTrainer

ALONE = 64  # units whose own contribution is measured: those with the most images, which image-wise clipping shows best
LEFT_OUT = 8  # of them, for additivity
PAIR_STEPS = 400  # of a pair of runs: all of them for full batches
# norm over C of what sums of units miss by rounding where several units share a float32 matrix product (seeded runs of
# other heads than linear ones): beyond it, units depend on each other
CROSSTALK = 1e-3


@dataclass(frozen=True)
class Dependence:
    """longest: of a unit alone, over C. defect: of additivity, norm over C; None where it cannot be measured."""

    longest: float
    defect: float | None
    exact: bool  # whether the defect must be zero


def dependence(trainer: ClassifierTrainer) -> Dependence:
    """Measure a private trainer before a step. Draws nothing from its random streams."""
    largest = torch.argsort(trainer.units.sizes, descending=True, stable=True)
    few = isinstance(trainer, NetworkTrainer)  # whose gradients take a second an image
    alone = largest[trainer.units.sizes[largest] > 0][: LEFT_OUT if few else ALONE]
    together = alone if few else torch.arange(len(trainer.units))
    with _without_draws(trainer):
        sums = {int(number): trainer.private_sum(number[None]) for number in alone}
        clip = next(iter(sums.values())).clip if sums else 1.0
        longest = max((_norm(total.blocks, total.step) / clip for total in sums.values()), default=0.0)
        random_layers = isinstance(trainer, HeadTrainer) and trainer.source.layers_rng is not None
        left_out = {number: sums[number] for number in list(sums)[:LEFT_OUT]}
        defect = None if random_layers else _defect(trainer, together, left_out)
    linear = (
        isinstance(trainer, HeadTrainer) and len(trainer.head) == 1 and isinstance(trainer.head[0], nn.Linear)
    )
    return Dependence(longest, defect, exact=linear or trainer.randomness.secure)


@contextmanager
def _without_draws(trainer: ClassifierTrainer) -> Iterator[None]:
    """Inside, sums draw nothing: flips that are drawn one after the other for a batch would differ without a leak."""
    recipe, state = trainer.recipe, trainer.batches_rng.get_state()
    if recipe.flips == "random":
        trainer.recipe = recipe.model_copy(update={"flips": "none"})
    try:
        yield
    finally:
        trainer.recipe = recipe
        trainer.batches_rng.set_state(state)


def _defect(trainer: ClassifierTrainer, everyone: torch.Tensor, sums: dict[int, GridSum]) -> float:
    """Largest |sum of all - sum of all but one - that one|, norm over C."""
    whole, worst = trainer.private_sum(everyone), 0.0
    for number, alone in sums.items():
        rest = trainer.private_sum(everyone[everyone != number])
        missing = [w - r - a for w, r, a in zip(whole.blocks, rest.blocks, alone.blocks, strict=True)]
        worst = max(worst, _norm(missing, whole.step) / whole.clip)
    return worst


def _norm(blocks: list[torch.Tensor], step: float) -> float:
    return float(torch.stack([block.double().norm() for block in blocks]).norm()) * step


# --- pairs -----------------------------------------------------------------------------------------------------------


class Replay:
    """Noise that hands out recorded noisy sums, whatever the exact ones are."""

    sampler = "replayed"

    def __init__(self, noise) -> None:
        self.noise, self.noisy = noise, []
        self.recording = True

    def added(self, values: torch.Tensor, scale: float) -> torch.Tensor:
        if self.recording:
            self.noisy.append(self.noise.added(values, scale))
            return self.noisy[-1]
        return self.noisy.pop(0)


def differing_sums(first: ClassifierTrainer, second: ClassifierTrainer, *, changed: int) -> int:
    """Entries that differ between the sums of all units but `changed`, before the first step.

    second: as in `differing_weights`. What was learnt from all units, a mean of their features say, shows here. Of a
    network's units a few are summed; with random layers nothing is.
    """
    if isinstance(first, HeadTrainer) and first.source.layers_rng is not None:
        return 0
    others = torch.tensor([n for n in range(len(first.units)) if n != changed])
    if isinstance(first, NetworkTrainer):
        others = others[:LEFT_OUT]
    sums = []
    for trainer in (first, second):
        with _without_draws(trainer):
            sums.append(trainer.private_sum(others).blocks)
    return sum(int((a != b).sum()) for a, b in zip(*sums, strict=True))


def differing_weights(first: ClassifierTrainer, second: ClassifierTrainer) -> int:
    """Weights that differ, bit for bit, between two fresh trainers under the same noisy sums.

    second: the same run with other data in place of one unit, from before it was built. Streams that draw for public
    images go alike in both. Compared are the last weights and those that the recipe would keep.
    """
    assert first.optimizer is not None
    assert second.optimizer is not None
    for stream, generator in first.streams.items():
        second.streams[stream].set_state(generator.get_state())
    steps = min(PAIR_STEPS, first.plan.steps)
    replay = Replay(first.optimizer.noise)
    for trainer in (first, second):
        trainer.optimizer.noise = replay  # type: ignore[union-attr]
        for _ in range(steps):
            trainer.step()
        replay.recording = False
    return sum(int((a != b).sum()) for a, b in zip(_weights(first), _weights(second), strict=True))


def _weights(trainer: ClassifierTrainer) -> list[torch.Tensor]:
    assert trainer.optimizer is not None
    kept = [] if trainer.recipe.select == "best_val" else list(trainer.selection.selected()[0].values())
    return [*(p.detach() for p in trainer.optimizer.parameters), *kept]


# --- released weights -----------------------------------------------------------------------------------------------


def noise_in_weights(
    weight: np.ndarray, bias: np.ndarray, *, plan: Plan, recipe: Recipe, clip: float
) -> tuple[float, int]:
    """Sum of squares, in units of the claimed noise, and number of coordinates of a released linear head.

    Both classes' gradients cancel in the sum of their weights, so that from a start at zero this sum is noise alone:
    sqrt(2) sigma C / (q N) a step, through the optimizer and the choice of weights, whose response to a unit of noise
    in each step is measured on the optimizer itself.
    """
    assert plan.mechanism is not None
    steps = plan.steps
    response = torch.nn.Parameter(torch.zeros(steps, dtype=torch.float64))
    kept = torch.zeros(steps, dtype=torch.float64)
    optimizer = inner_optimizer([response], recipe, plan)
    for step in range(steps):
        response.grad = torch.zeros(steps, dtype=torch.float64)
        response.grad[step] = 1.0
        optimizer.step()
        kept.lerp_(response.detach(), iterate_weight(recipe.select, step + 1, steps=steps))
    deviation = 2**0.5 * plan.mechanism.noise_multiplier * clip / plan.divisor * float(kept.norm())
    seen = np.concatenate([weight.sum(axis=0), bias.sum(keepdims=True)]) / deviation
    return float((seen**2).sum()), len(seen)
