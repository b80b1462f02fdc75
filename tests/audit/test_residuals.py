"""Independence of the noise of several runs, and where nothing can be said of it."""

import pytest
import torch

from mammo_dp.audit.residuals import fresh_noise


def noise(coordinates: int, runs: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(coordinates, generator=g, dtype=torch.float64) for _ in range(runs)]


@pytest.mark.parametrize(("coordinates", "runs"), [(18, 3), (400, 1), (400, 3)])
def test_fresh_noise_is_no_fault(coordinates, runs):
    """Neither of a small head nor of a single run, of which nothing can be said."""
    assert fresh_noise(noise(coordinates, runs)) > 0.05


def test_noise_that_is_used_again_is_found():
    first, second = noise(400, 2)
    assert fresh_noise([first, second, first]) < 1e-6
