"""The optimizer that a recipe names."""

from collections.abc import Sequence

import torch
from torch import nn

from mammo_dp.sections import Recipe


def inner_optimizer(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """As it is without privacy; under privacy it takes the noisy gradients."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
