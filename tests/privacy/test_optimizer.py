import pytest
import torch
from scipy.stats import kstest
from torch import nn

from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.optimizer import private_optimizer
from mammo_dp.privacy.sampling import seeded_generator

SIGMA, C, RATE, N = 3.0, 0.5, 1 / 9, 900


def updates(steps: int = 3, *, gradient: float = 0.0, secure: bool = False) -> list[torch.Tensor]:
    """What an SGD step of lr 1 moves a parameter of 20,000 entries by, at a constant summed gradient."""
    layer = nn.Linear(20_000, 1, bias=False)
    inner = torch.optim.SGD(layer.parameters(), lr=1.0)
    optimizer = private_optimizer(
        inner,
        Mechanism(RATE, SIGMA, steps),
        max_grad_norm=C,
        public_count=N,
        noise=seeded_generator(0, "run", "noise"),
        secure=secure,
    )
    moved = []
    for _ in range(steps):
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        moved.append((before - layer.weight.detach()).flatten())
    return moved


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_the_claimed_scale(secure):
    """N(0, (sigma C)^2) over the public expected batch; a KS test tells it from 2/3 and 3/2 of it."""
    noise = torch.cat(updates(secure=secure)) * RATE * N
    assert noise.std() == pytest.approx(SIGMA * C, rel=0.02)
    assert kstest(noise, "norm", args=(0, SIGMA * C)).pvalue > 0.001
    for wrong in (2 / 3, 3 / 2):
        assert kstest(noise, "norm", args=(0, wrong * SIGMA * C)).pvalue < 1e-9


def test_noise_is_fresh_at_every_step():
    first, second, third = updates()
    for a, b in ((first, second), (second, third), (first, third)):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.03


def test_the_sum_is_divided_by_the_public_count():
    with_gradient, without = updates(1, gradient=7.0)[0], updates(1)[0]
    torch.testing.assert_close(with_gradient - without, torch.full((20_000,), 7.0 / (RATE * N)))
