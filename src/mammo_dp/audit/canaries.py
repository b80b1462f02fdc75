"""White-box canaries: an attack on the training itself by somebody who sees every noisy sum (Nasr et al. 2023).

Canaries are further units of the audited trainer. Its own sampler draws them, and its own sum clips them: the gradient
of each is 100 C along one coordinate. The attacker knows everything else, so subtracts it. Canaries on different
coordinates do not disturb each other: one run tests as many as there are parameters (Steinke, Nasr, Jagielski 2023).
Each is in the training set by a fair coin, else null; where neighbours differ by replacement, each is there with
the coin's sign.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mammo_dp.audit.residuals import Residuals
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.mechanism import GridSum, grid_step, noise_scale
from mammo_dp.privacy.units import Units
from mammo_dp.training.head_trainer import HeadTrainer
from mammo_dp.training.network_trainer import NetworkTrainer

LENGTH = 100.0  # of a canary's gradient before clipping, in multiples of C


@dataclass(frozen=True)
class OneHot:
    """Contributions along one coordinate each: of a block's flat places, signed."""

    places: torch.Tensor
    values: torch.Tensor
    shape: tuple[int, ...]

    def squared_norms(self) -> torch.Tensor:
        return self.values.square()

    def masses(self) -> torch.Tensor:
        return self.values.abs()

    def rounded(self, factors: torch.Tensor, step: float) -> "OneHot":
        return OneHot(self.places, (self.values * factors / step).round(), self.shape)

    def sum(self, kept: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(math.prod(self.shape), dtype=torch.int64)
        return total.index_add_(0, self.places, (self.values * kept).long()).view(self.shape)


class Canaries:
    """Attaches to a private trainer whose units end with `count` empty ones.

    claimed: the mechanism that is audited; clip: its C.
    """

    def __init__(
        self,
        trainer: HeadTrainer | NetworkTrainer,
        claimed: Mechanism,
        *,
        count: int,
        clip: float,
        generator: torch.Generator,
    ) -> None:
        assert trainer.optimizer is not None
        self.trainer, self.claimed, self.clip = trainer, claimed, clip
        self.real = len(trainer.units) - count
        self.shapes = trainer.private_sum(torch.empty(0, dtype=torch.int64)).shapes
        sizes = [math.prod(shape) for shape in self.shapes]
        self.ends = np.cumsum([0, *sizes])
        self.coordinates = torch.randperm(sum(sizes), generator=generator)[:count].sort().values
        self.coins = torch.rand(count, generator=generator) < 0.5
        self.replaces = claimed.sensitivity == 2
        signs = torch.where(self.coins, 1.0, -1.0) if self.replaces else self.coins.double()
        self.signs = signs.double()
        self.scale = noise_scale(claimed.noise_multiplier, clip)
        self.total = torch.zeros(count, dtype=torch.float64)
        self.residuals = Residuals(self.shapes, scale=self.scale, claimed=claimed, units=len(trainer.units))
        self.others = self.total
        trainer.on_sum = self._add
        trainer.optimizer.observer = self._observe
        self.own_step = trainer.optimizer.inner.step
        if trainer.optimizer.before_step is None:  # else public gradients have been mixed in, rightly
            trainer.optimizer.inner.step = self._step  # type: ignore[method-assign]

    def _add(self, chosen: torch.Tensor, total: GridSum) -> None:
        self.residuals.drawn(chosen)
        self.others = self._read(total.blocks)
        mine = chosen[chosen >= self.real] - self.real
        mine = mine[self.signs[mine] != 0]
        for number, shape in enumerate(self.shapes):
            first, last = self.ends[number], self.ends[number + 1]
            here = mine[(self.coordinates[mine] >= first) & (self.coordinates[mine] < last)]
            if len(here):
                values = LENGTH * self.clip * self.signs[here]
                total.add({number: OneHot(self.coordinates[here] - first, values, shape)})

    def _observe(self, total: GridSum, noisy: Sequence[torch.Tensor]) -> None:
        self.residuals.add(total.blocks, noisy)
        self.noisy = noisy
        seen = self._read(noisy) - self.others
        self.total += self._evidence(
            seen * (grid_step(self.clip) / (self.claimed.noise_multiplier * self.clip))
        )

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        """The inner optimizer's step, on the gradients that the observed noisy sum gives."""
        optimizer = self.trainer.optimizer
        assert optimizer is not None
        expected = optimizer._gradients(self.noisy, grid_step(self.clip))
        for parameter, gradient in zip(optimizer.parameters, expected, strict=True):
            same = parameter.grad is not None and torch.equal(
                parameter.grad, gradient.view_as(parameter).to(parameter)
            )
            self.residuals.as_released = self.residuals.as_released and same
        return self.own_step(*args, **kwargs)

    def _evidence(self, seen: torch.Tensor) -> torch.Tensor:
        """Log-likelihood ratio of one step: N(1/sigma, 1), if sampled, against N(0, 1); or N(+-1/sigma, 1)."""
        sigma, rate = self.claimed.noise_multiplier, self.claimed.sample_rate
        if self.replaces:
            return 2 * seen / sigma
        ratio = seen / sigma - 1 / (2 * sigma**2)
        if rate == 1:
            return ratio
        return torch.logaddexp(torch.full_like(ratio, math.log1p(-rate)), ratio + math.log(rate))

    def _read(self, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
        """(canaries,) values at their coordinates."""
        return torch.cat([block.flatten().cpu() for block in blocks])[self.coordinates].double()


def with_room(units: Units, count: int) -> Units:
    """The units, and `count` empty ones behind them."""
    return Units([*units.members(), *([] for _ in range(count))])
