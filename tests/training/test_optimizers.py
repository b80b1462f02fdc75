"""The step size by the noise, and Adam freed of it."""

import math

import pytest
import torch

from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.planning import Plan
from mammo_dp.training.optimizers import (
    LARGEST_MOVE,
    LOGIT_NOISE,
    AdamBC,
    inner_optimizer,
    learning_rate,
    noise_of_mean,
)
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


def test_adambc_without_noise_is_adamw():
    g = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(20)) for _ in range(2))
    given = {"lr": 0.1, "weight_decay": 0.1}
    pair = AdamBC([ours], noise=0.0, **given), torch.optim.AdamW([theirs], eps=1e-8, **given)
    for _ in range(10):
        ours.grad = torch.randn(20, generator=g)
        theirs.grad = ours.grad.clone()
        for optimizer in pair:
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_adambc_takes_the_noise_out_of_the_second_moment():
    """A constant gradient of 1 under noise of 5: Adam's steps shrink by five, AdamBC's stay near lr."""
    g = torch.Generator().manual_seed(0)
    moved = {}
    for noise in (0.0, 5.0):
        weights = torch.nn.Parameter(torch.zeros(2000))
        optimizer = AdamBC([weights], lr=0.01, weight_decay=0.0, noise=noise)
        for _ in range(3000):
            weights.grad = 1 + 5 * torch.randn(2000, generator=g)
            optimizer.step()
        moved[noise] = -weights.mean().item() / (0.01 * 3000)
    assert moved[0.0] == pytest.approx(1 / 26**0.5, rel=0.1)
    assert moved[5.0] > 0.7
