"""White-box canaries: an attack on the training itself by somebody who sees every noisy sum (Nasr et al. 2023).

A canary is a unit whose gradient is 100 C along one coordinate of the parameters, so that clipping leaves C. It joins
the run's own batches, passes its clipping factor, and is hidden by its own noise; the attacker knows everything else,
so subtracts it. Canaries on different coordinates do not disturb each other: one run tests as many as there are
parameters (Steinke, Nasr, Jagielski 2023). Each is in the training set by a coin of its own; where neighbours differ by
replacement, each is there with the coin's sign.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from mammo_dp.privacy.clipping import clip_factors
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.sampling import batches_of

LENGTH = 100.0  # of a canary's gradient before clipping, in multiples of C


@dataclass
class CanaryScores:
    """What the attacker knows at the end of one run."""

    # (canaries,) log-likelihood ratio of "in the training set" under the claimed mechanism
    scores: torch.Tensor
    members: torch.Tensor  # (canaries,) bool, the truth
    noise_squares: float  # sum over coordinates and steps of the squared noise, in units of the claimed one
    noise_draws: int


class Canaries:
    """Attaches to a private trainer and stands in for its batches. `claimed`: the mechanism that is audited."""

    def __init__(self, trainer: Any, claimed: Mechanism, *, count: int, generator: torch.Generator) -> None:
        """trainer: a HeadTrainer or NetworkTrainer before its first step; count: at most its parameters."""
        parameters = trainer.optimizer.params
        sizes = [parameter.numel() for parameter in parameters]
        count = min(count, sum(sizes))
        coordinates = torch.randperm(sum(sizes), generator=generator)[:count].sort().values
        self.places = _by_parameter(coordinates, sizes)
        self.coins = torch.rand(count, generator=generator) < 0.5
        self.claimed, self.replaces = claimed, claimed.sensitivity == 2
        self.signs = torch.where(self.coins, 1.0, -1.0) if self.replaces else torch.ones(count)
        present = torch.arange(count) if self.replaces else self.coins.nonzero().flatten()
        self.units, self.present, self.drawn = len(trainer.units), present, present[:0]
        self.norm, self.divisor = trainer.recipe.max_grad_norm, trainer.optimizer.expected_batch_size
        self.batches = batches_of(
            self.units + len(present), trainer.plan.mechanism, trainer.recipe.batch_size, trainer.batches_rng
        )
        trainer.batches = self
        self.others, self.noise_squares, self.noise_draws = torch.zeros(count), 0.0, 0
        self.total = torch.zeros(count, dtype=torch.float64)
        trainer.optimizer.before_noise = self._add
        after = trainer.optimizer.step_hook
        trainer.optimizer.attach_step_hook(lambda optimizer: self._observe(optimizer, after))

    def next(self) -> torch.Tensor:
        """The units that the run's sampler drew; canaries drawn with them are kept for `_add`."""
        drawn = self.batches.next()
        self.drawn = self.present[drawn[drawn >= self.units] - self.units]
        return drawn[drawn < self.units]

    def _add(self, parameters: list[torch.nn.Parameter]) -> None:
        long = torch.full((len(self.drawn),), LENGTH * self.norm)
        added = torch.zeros(len(self.coins))
        added[self.drawn] = self.signs[self.drawn] * long * clip_factors(long, self.norm)
        self.others = self._read(parameters, "grad")
        for parameter, (columns, places) in zip(parameters, self.places, strict=True):
            assert parameter.grad is not None
            parameter.grad.view(-1)[places] += added[columns].to(parameter.grad)

    def _observe(self, optimizer: Any, after: Any) -> None:
        noisy, summed = self._read(optimizer.params, "grad"), self._read(optimizer.params, "summed_grad")
        scale = self.claimed.noise_multiplier * self.norm
        noise = (noisy * self.divisor - summed) / scale
        self.noise_squares += float(noise.square().sum())
        self.noise_draws += len(noise)
        self.total += self._evidence((noisy * self.divisor - self.others) / scale)
        if after is not None:
            after(optimizer)

    def _evidence(self, seen: torch.Tensor) -> torch.Tensor:
        """Log-likelihood ratio of one step: N(1/sigma, 1), if sampled, against N(0, 1); or N(+-1/sigma, 1)."""
        sigma, rate = self.claimed.noise_multiplier, self.claimed.sample_rate
        if self.replaces:
            return 2 * seen / sigma
        ratio = seen / sigma - 1 / (2 * sigma**2)
        if rate == 1:
            return ratio
        return torch.logaddexp(torch.full_like(ratio, math.log1p(-rate)), ratio + math.log(rate))

    def _read(self, parameters: list[torch.nn.Parameter], name: str) -> torch.Tensor:
        """(canaries,) values at their coordinates, in double precision on the CPU."""
        values = [
            getattr(p, name).view(-1)[places] for p, (_, places) in zip(parameters, self.places, strict=True)
        ]
        return torch.cat(values).double().cpu()

    @property
    def result(self) -> CanaryScores:
        return CanaryScores(self.total, self.coins, self.noise_squares, self.noise_draws)


def _by_parameter(coordinates: torch.Tensor, sizes: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each parameter: which canaries lie in it, and their places in it. coordinates: sorted."""
    places, first = [], 0
    for size in sizes:
        inside = ((coordinates >= first) & (coordinates < first + size)).nonzero().flatten()
        places.append((inside, coordinates[inside] - first))
        first += size
    return places
