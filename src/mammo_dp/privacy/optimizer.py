"""Noise and the step: Opacus' DP optimizer on gradients that are already clipped and summed."""

from collections.abc import Callable

import torch
from opacus.optimizers import DPOptimizerFastGradientClipping

from mammo_dp.privacy.events import Mechanism


class SummedGradientOptimizer(DPOptimizerFastGradientClipping):
    """Opacus' optimizer for gradients that `gradient_sum` has clipped and summed; noise and scaling are its own.

    `before_noise`, if set, is called with the parameters that carry the sum: an audit adds its canaries there.
    """

    before_noise: Callable[[list[torch.nn.Parameter]], None] | None = None

    def accumulate(self) -> None:
        """Take the sum as it is: it was made for this step, so that no copy is needed."""
        if self.before_noise is not None:
            self.before_noise(self.params)
        for parameter in self.params:
            parameter.summed_grad = parameter.grad  # type: ignore[attr-defined]


def private_optimizer(
    inner: torch.optim.Optimizer,
    mechanism: Mechanism,
    *,
    max_grad_norm: float,
    public_count: int,
    noise: torch.Generator,
    secure: bool = False,
) -> SummedGradientOptimizer:
    """Wrap `inner` so that each step adds N(0, (sigma C)^2) to the summed gradient and divides it.

    The divisor is sample_rate * public_count, the expected batch size of the published training set; the size of
    the batch at hand is private. `secure` adds four draws for each value, so that the noise has no gaps that floating
    point leaves (Holohan and Braghin 2021) and no end at 5.8 standard deviations, where a single float32 draw stops.
    """
    return SummedGradientOptimizer(
        inner,
        noise_multiplier=mechanism.noise_multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=mechanism.sample_rate * public_count,  # type: ignore[arg-type]
        generator=noise,
        secure_mode=secure,
    )
