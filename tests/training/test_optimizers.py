"""The step size by the noise, and Adam freed of it."""

import math

import pytest
import torch

from mammo_dp.privacy.events import Mechanism
from mammo_dp.training.optimizers import (
    LOGIT_NOISE,
    STABLE,
    inner_optimizer,
    learning_rate,
    noise_of_mean,
)
from mammo_dp.training.plans import Plan
from tests.conftest import config_of


def plan(sigma: float | None, *, steps: int = 100, count: int = 1000, share: float = 1.0) -> Plan:
    mechanism = None if sigma is None else Mechanism(1.0, sigma, steps)
    return Plan(steps, 1, mechanism, first_eligible_step=0, public_count=count, private_share=share)


def test_a_given_lr_is_kept_and_the_rule_takes_its_place():
    assert learning_rate(config_of("recipe=dp_gd").recipe, plan(30.0)) == 0.3
    rule = config_of("recipe=dp_rule").recipe
    largest = STABLE * 4 * 1.9 / (3.33**2 + 1)
    assert learning_rate(rule, plan(None)) == pytest.approx(largest)
    assert learning_rate(rule, plan(0.01)) == pytest.approx(largest)
    by_hand = LOGIT_NOISE * 0.1 * 1000 / (30.0 * rule.max_grad_norm * math.sqrt(100) * 3.33)
    assert learning_rate(rule, plan(30.0)) == pytest.approx(by_hand)
    assert learning_rate(rule, plan(30.0, share=0.5)) == pytest.approx(2 * by_hand)


@pytest.mark.parametrize(("part", "converges"), [(0.98, True), (1.02, False)])
def test_the_limit_of_stable_steps(part, converges):
    """Plain descent on one row of each class that lie on a line: its curvature at zero is the bound's."""
    recipe = config_of("recipe=dp_rule", "recipe.feature_norm=1").recipe
    row = torch.cat([torch.full((16,), 0.25), torch.ones(1)]).double()  # of norm 1, and the bias's 1
    weights = torch.full((2, 17), 1e-6, dtype=torch.float64)
    weights[0] *= -1
    weights.requires_grad_()
    optimizer = inner_optimizer(
        [weights], recipe.model_copy(update={"lr": part * recipe.stable_lr}), plan(None)
    )  # type: ignore[list-item]
    labels = torch.tensor([0, 1])
    for _ in range(400):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy((weights @ row).expand(2, 2), labels).backward()
        optimizer.step()
    logits = weights.detach() @ row
    assert (abs(float(logits[1] - logits[0])) < 1e-7) == converges


def test_the_rule_gives_the_noise_that_it_promises():
    """Pure noise through momentum: a logit's standard deviation after many steps is LOGIT_NOISE."""
    recipe, a_plan = config_of("recipe=dp_rule").recipe, plan(30.0, steps=1000)
    weights = torch.nn.Parameter(torch.zeros(4000))
    optimizer = inner_optimizer([weights], recipe, a_plan)
    g = torch.Generator().manual_seed(0)
    for _ in range(1000):
        weights.grad = noise_of_mean(a_plan, max_grad_norm=recipe.max_grad_norm) * torch.randn(
            4000, generator=g
        )
        optimizer.step()
    assert recipe.feature_norm * weights.std().item() == pytest.approx(LOGIT_NOISE, rel=0.05)
