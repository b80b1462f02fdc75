"""Training a head from noisy sums that it follows from, with the batches, units, noise and checkpoints of descent."""

import torch
from torch import nn

from mammo_dp.models.classifier import class_difference
from mammo_dp.privacy.clipping import clip_factors
from mammo_dp.privacy.gradients import check_units
from mammo_dp.privacy.units import Units
from mammo_dp.training.classifier import HeadTrainer
from mammo_dp.training.optimizers import noise_of_mean
from mammo_dp.training.statistics import SOLVERS


class StatisticsTrainer(HeadTrainer):
    """Each step releases the sums of `recipe.solver`, as gradients of zeros, and solves for the linear head."""

    def _parameters(self) -> list[nn.Parameter]:
        self.statistic = SOLVERS[self.recipe.solver](self.recipe)
        shapes = self.statistic.shapes(self._layer.in_features)
        like = self._layer.weight
        return [nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device)) for shape in shapes]

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        """A step of length one from zero leaves the noisy mean, negative."""
        return torch.optim.SGD(self.released, lr=1.0)

    @property
    def _layer(self) -> nn.Linear:
        (layer,) = self.head
        assert isinstance(layer, nn.Linear)
        return layer

    def release(self) -> None:
        """Release the sums, and set the head to what follows from them."""
        with torch.no_grad():
            for parameter in self.released:
                parameter.zero_()
        super().release()
        noise = noise_of_mean(self.plan, max_grad_norm=self.recipe.max_grad_norm)
        means = [-parameter.detach() for parameter in self.released]
        value = self.statistic.solve(
            means, noise=noise, count=self.plan.public_count, value=class_difference(self._layer)
        )
        with torch.no_grad():
            self._layer.weight.copy_(torch.stack([-value[:-1] / 2, value[:-1] / 2]))
            self._layer.bias.copy_(torch.stack([-value[-1] / 2, value[-1] / 2]))

    def sum_gradients(self, units: Units, chosen: torch.Tensor, *, flips: torch.Generator) -> None:
        """Set every .grad to the sum over the chosen units of the clipped mean psi of their rows."""
        value = class_difference(self._layer)
        total = [torch.zeros_like(parameter) for parameter in self.released]
        for features, labels in self._kept_rows(units, chosen, flips):
            rows = features.shape[1]
            inner = self.statistic.inner(features, labels, value)
            check_units(len(features), [inner])
            norms = inner.sum(dim=(1, 2)).clamp(min=0).sqrt() / rows
            factors = torch.ones_like(norms)
            if self.plan.mechanism is not None:
                factors = clip_factors(norms, self.recipe.max_grad_norm)
            factors = torch.where(norms.isfinite(), factors, 0.0) / rows
            finite = torch.where(norms.isfinite()[:, None, None], features, 0.0)
            weights = factors[:, None].expand(-1, rows).flatten()
            sums = self.statistic.sums(finite.flatten(0, 1), labels.flatten(), weights, value)
            for into, added in zip(total, sums, strict=True):
                into += added
        for parameter, gradient in zip(self.released, total, strict=True):
            parameter.grad = gradient
