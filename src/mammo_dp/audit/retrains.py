"""Many linear heads at once, each on its own random part of the records: the models of a membership attack.

Two classes make the head one vector: of v = w_1 - w_0 and its bias, which alone decide a score, the step is the same
linear map, its gradient 2 g_1 and its noise N(0, 2 (sigma C)^2). All models then share two matrix products a step, and
each unit's norm follows from the inner products of its rows, which never change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mammo_dp.config.schema import Recipe
from mammo_dp.privacy.clipping import clip_factors
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.mechanism import SHORTENED
from mammo_dp.training.selection import iterate_weight


@dataclass(frozen=True)
class Rows:
    """Units of privacy with one number of rows each."""

    features: torch.Tensor  # (units, k, d)
    labels: torch.Tensor  # (units, k) of 0 and 1
    records: torch.Tensor  # (units, k) number of the record whose presence the attack is about
    products: torch.Tensor  # (units, k, k) inner products of the rows, plus 1 for the bias

    @classmethod
    def of(cls, features: torch.Tensor, labels: torch.Tensor, records: torch.Tensor) -> "Rows":
        return cls(features, labels, records, features @ features.mT + 1)


def retrain(
    groups: Sequence[Rows],
    members: torch.Tensor,
    *,
    mechanism: Mechanism | None,
    steps: int,
    count: int,
    recipe: Recipe,
    lr: float,
    start: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """(d + 1, models) differences of weights, and of biases, that the recipe keeps.

    members: (records, models) bool, who is in which training set. count: the divisor of the summed gradients under
    privacy, else each model's own number of units. lr: the recipe's or its rule's.
    start: (d + 1,) the head before training.
    """
    models = members.shape[1]
    weights = [_shares(group, members) for group in groups]
    divisor: torch.Tensor | float = count
    if mechanism is None:
        divisor = sum(((w.sum(1) > 0).sum(0) for w in weights), torch.zeros(models)).clamp(min=1)
    value = start[:, None].expand(-1, models).clone()
    moving = torch.zeros_like(value)
    kept = value.clone()
    for step in range(1, steps + 1):
        total = torch.zeros_like(value)
        for group, weight in zip(groups, weights, strict=True):
            _add_gradient(total, group, weight, value, recipe, clipped=mechanism is not None)
        if mechanism is not None:
            scale = 2**0.5 * mechanism.noise_multiplier * recipe.max_grad_norm
            total += scale * torch.randn(value.shape, generator=generator)
        gradient = total / divisor + recipe.weight_decay * value
        moving = gradient if step == 1 else recipe.momentum * moving + gradient
        value = value - lr * moving
        kept.lerp_(value, iterate_weight(recipe.select, step, steps=steps))
    return kept


def _shares(group: Rows, members: torch.Tensor) -> torch.Tensor:
    """(units, k, models) weight of each row in its unit's mean: rows of absent records have none."""
    there = members[group.records].float()
    return there / there.sum(dim=1, keepdim=True).clamp(min=1)


def _add_gradient(
    total: torch.Tensor,
    group: Rows,
    shares: torch.Tensor,
    value: torch.Tensor,
    recipe: Recipe,
    *,
    clipped: bool,
) -> None:
    """Add the sum over units of the clipped gradient of v; twice that of w_1, since that of w_0 is its negative."""
    flat = group.features.flatten(0, 1)
    logits = (flat @ value[:-1] + value[-1]).view(*group.labels.shape, -1)
    target = group.labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    residual = logits.sigmoid_().sub_(target[..., None]).mul_(shares)
    if clipped:  # the norm of (w_0, w_1)'s gradient is sqrt(2) that of w_1's
        squared = (residual * (group.products @ residual)).sum(dim=1)
        norms = (2 * squared.clamp(min=0)).sqrt()
        residual.mul_(clip_factors(norms, SHORTENED * recipe.max_grad_norm)[:, None])
    rows = residual.flatten(0, 1)
    total[:-1].addmm_(flat.T, rows, alpha=2)
    total[-1].add_(rows.sum(dim=0), alpha=2)
