"""The step size by the noise, and Adam freed of it."""

import math

import pytest
import torch

from mammo_dp.privacy.events import Mechanism
from mammo_dp.training.optimizers import (
    LARGEST_MOVE,
    LOGIT_NOISE,
    inner_optimizer,
    learning_rate,
    noise_of_mean,
)
from mammo_dp.training.plans import Plan
from tests.conftest import config_of


def plan(sigma: float | None, *, steps: int = 100, count: int = 1000) -> Plan:
    mechanism = None if sigma is None else Mechanism(1.0, sigma, steps)
    return Plan(steps, 1, mechanism, first_eligible_step=0, public_count=count)


def test_a_given_lr_is_kept_and_the_rule_takes_its_place():
    assert learning_rate(config_of("recipe=dp_gd").recipe, plan(30.0)) == 16
    rule = config_of("recipe=dp_rule").recipe
    assert learning_rate(rule, plan(None)) == LARGEST_MOVE
    assert learning_rate(rule, plan(0.01)) == LARGEST_MOVE / rule.max_grad_norm
    by_hand = LOGIT_NOISE * 0.1 * 1000 / (30.0 * rule.max_grad_norm * math.sqrt(100))
    assert learning_rate(rule, plan(30.0)) == pytest.approx(by_hand)


def test_the_rule_gives_the_noise_that_it_promises():
    """Pure noise through momentum: the weights' standard deviation after many steps is LOGIT_NOISE."""
    recipe, a_plan = config_of("recipe=dp_rule").recipe, plan(30.0, steps=1000)
    weights = torch.nn.Parameter(torch.zeros(4000))
    optimizer = inner_optimizer([weights], recipe, a_plan)
    g = torch.Generator().manual_seed(0)
    for _ in range(1000):
        weights.grad = noise_of_mean(a_plan, max_grad_norm=recipe.max_grad_norm) * torch.randn(
            4000, generator=g
        )
        optimizer.step()
    assert weights.std().item() == pytest.approx(LOGIT_NOISE, rel=0.05)
