"""The optimizer that a recipe names, and the step size that follows from the noise."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mammo_dp.privacy.planning import Plan
from mammo_dp.sections import Recipe


def inner_optimizer(parameters: Sequence[nn.Parameter], recipe: Recipe, plan: Plan) -> torch.optim.Optimizer:
    """As it is without privacy; under privacy it takes the noisy gradients."""
    lr = learning_rate(recipe, plan)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimizer == "adam_bc":
        noise = noise_of_mean(plan, max_grad_norm=recipe.max_grad_norm)
        return AdamBC(parameters, lr=lr, weight_decay=recipe.weight_decay, noise=noise)
    return torch.optim.SGD(parameters, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


LOGIT_NOISE = 2.0  # standard deviation that the noise of all steps together may give a logit
LARGEST_MOVE = 16.0  # lr times the longest gradient of a unit: C, or about 1 where nothing is clipped


def learning_rate(recipe: Recipe, plan: Plan) -> float:
    """The recipe's, or where it has none, as large as the noise allows.

    T full steps of size lr with momentum m leave noise of standard deviation lr / (1 - m) sqrt(T) sigma C / N in each
    weight, and as much in the logit of a feature vector of unit length, whatever its dimension. The rule sets that to
    LOGIT_NOISE, and no unit moves the mean by more than LARGEST_MOVE. Both were chosen on phantoms (docs/recipes.md).
    """
    if recipe.lr is not None:
        return recipe.lr
    if plan.mechanism is None:
        return LARGEST_MOVE
    noise = noise_of_mean(plan, max_grad_norm=recipe.max_grad_norm) * plan.steps**0.5
    return min(LOGIT_NOISE * (1 - recipe.momentum) / noise, LARGEST_MOVE / recipe.max_grad_norm)


def noise_of_mean(plan: Plan, *, max_grad_norm: float) -> float:
    """Standard deviation of the noise in each entry of a step's mean gradient, sigma C / (q N); 0 without privacy."""
    if plan.mechanism is None:
        return 0.0
    mechanism = plan.mechanism
    return mechanism.noise_multiplier * max_grad_norm / (mechanism.sample_rate * plan.public_count)


class AdamBC(torch.optim.Optimizer):
    """Adam whose second moment is freed of the noise's variance (Tang, Lecuyer 2023, DP-AdamBC).

    v^ - noise^2, and at least (FLOOR noise)^2, stands where Adam has v^: else noise alone sets every step's size.
    noise: standard deviation of each entry of the noisy mean gradient. Weight decay is decoupled, as in AdamW.
    """

    BETAS, EPSILON, FLOOR = (0.9, 0.999), 1e-8, 0.1

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, lr: float, weight_decay: float, noise: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "noise": noise})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step on the gradients at hand. closure: not used."""
        first, second = self.BETAS
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {
                        "step": 0,
                        "mean": torch.zeros_like(parameter),
                        "square": torch.zeros_like(parameter),
                    }
                state["step"] += 1
                state["mean"].lerp_(parameter.grad, 1 - first)
                state["square"].lerp_(parameter.grad.square(), 1 - second)
                mean = state["mean"] / (1 - first ** state["step"])
                square = state["square"] / (1 - second ** state["step"]) - group["noise"] ** 2
                square.clamp_(min=(self.FLOOR * group["noise"]) ** 2)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * mean / (square.sqrt() + self.EPSILON))
