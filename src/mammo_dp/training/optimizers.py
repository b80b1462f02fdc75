"""The optimizer that a recipe names, and the step size that follows from the noise."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from mammo_dp.config.schema import Recipe
from mammo_dp.errors import UserError
from mammo_dp.training.plans import Plan

Parameters = Sequence[nn.Parameter]
# recipe.optimizer -> the optimizer of parameters with a learning rate
OPTIMIZERS: dict[str, Callable[[Parameters, float, Recipe], torch.optim.Optimizer]] = {
    "adamw": lambda parameters, lr, recipe: torch.optim.AdamW(
        parameters, lr=lr, weight_decay=recipe.weight_decay, fused=True
    ),
    "sgd": lambda parameters, lr, recipe: torch.optim.SGD(
        parameters, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    ),
}


def check_optimizer(recipe: Recipe) -> None:
    """Raises UserError for an optimizer that is not known."""
    if recipe.optimizer not in OPTIMIZERS:
        raise UserError(
            f"recipe.optimizer={recipe.optimizer} is not known; choose one of {', '.join(OPTIMIZERS)}"
        )


def inner_optimizer(parameters: Parameters, recipe: Recipe, plan: Plan) -> torch.optim.Optimizer:
    """As it is without privacy; under privacy it takes the noisy gradients."""
    return OPTIMIZERS[recipe.optimizer](parameters, learning_rate(recipe, plan), recipe)


LOGIT_NOISE = 2.0  # standard deviation that the noise of all steps together may give a logit
STABLE = 0.5  # of the largest stable step: the step 1/L of plain descent, which is half of its limit too


def learning_rate(recipe: Recipe, plan: Plan) -> float:
    """The recipe's, or where it has none, as large as the noise allows.

    T full steps of size lr with momentum m leave noise of standard deviation lr / (1 - m) sqrt(T) sigma C / N in each
    weight, and feature_norm times as much in a logit, whatever the dimension. The rule sets that to LOGIT_NOISE, and
    stays at STABLE of the limit of stable steps (docs/recipes.md).
    """
    if recipe.lr is not None:
        return recipe.lr
    largest = STABLE * recipe.stable_lr
    if plan.mechanism is None:
        return largest
    noise = noise_of_mean(plan, max_grad_norm=recipe.max_grad_norm) * plan.private_share
    noise *= plan.steps**0.5 * recipe.feature_norm
    return min(LOGIT_NOISE * (1 - recipe.momentum) / noise, largest)


def noise_of_mean(plan: Plan, *, max_grad_norm: float) -> float:
    """Standard deviation of the noise in each entry of a step's mean gradient, sigma C / (q N); 0 without privacy."""
    if plan.mechanism is None:
        return 0.0
    return plan.mechanism.noise_multiplier * max_grad_norm / plan.divisor
