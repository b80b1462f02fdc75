"""Noise on the grid: exact probabilities at small scales, mean and variance at large ones, independent and fresh."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare, kstest

from mammo_dp.privacy import noise
from mammo_dp.privacy.noise import SecureNoise, SeededNoise, discrete_gaussian
from mammo_dp.privacy.sampling import Randomness

SMALL = (0.4, 1.0, 3.7)


def secure(coordinates: int):
    return lambda scale, count: (
        SecureNoise(coordinates).added(torch.zeros(count, dtype=torch.int64), scale).numpy()
    )


SAMPLERS = {"opendp": secure(10), "vectorised": secure(10**6)}


def expected(scale: float, reach: int) -> np.ndarray:
    """Probabilities of -reach to reach, by the definition, from a sum that reaches far beyond."""
    wide = np.arange(-40 * (int(scale) + 1), 40 * (int(scale) + 1) + 1)
    mass = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * scale**2))
    return mass / np.exp(-(wide**2) / (2 * scale**2)).sum()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scale", SMALL)
def test_small_scales_have_the_exact_probabilities(sampler, scale):
    count, reach = 60_000, int(3 * scale) + 1
    drawn = SAMPLERS[sampler](scale, count)
    probability = expected(scale, reach)
    seen = np.array([(drawn == k).sum() for k in range(-reach, reach + 1)])
    inside = probability * count >= 5
    rest = count - seen[inside].sum(), count * (1 - probability[inside].sum())
    seen, wanted = np.append(seen[inside], rest[0]), np.append(probability[inside] * count, rest[1])
    assert chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue > 1e-5


@pytest.mark.parametrize("sampler", [*SAMPLERS, "seeded"])
@pytest.mark.parametrize("scale", [2.0**12, 45.05 * 2.0**40])
def test_large_scales_have_the_mean_the_variance_and_the_shape(sampler, scale):
    count = 20_000
    if sampler == "seeded":
        drawn = (
            SeededNoise(torch.Generator().manual_seed(1))
            .added(torch.zeros(count, dtype=torch.int64), scale)
            .numpy()
        )
    else:
        drawn = SAMPLERS[sampler](scale, count)
    z = drawn / scale
    assert abs(z.mean()) < 5 / count**0.5
    assert 1e-6 < chi2.cdf((z**2).sum(), count) < 1 - 1e-6
    assert kstest(z, "norm").pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert kstest(z * wrong, "norm").pvalue < 1e-9
    assert 0.47 < (drawn & 1).mean() < 0.53  # down to the last bit


@pytest.mark.parametrize("coordinates", [10, 10**6])
def test_secure_noise_is_fresh_and_added_to_the_values(coordinates):
    values = torch.arange(20, dtype=torch.int64).view(4, 5) * 10**9
    source = SecureNoise(coordinates)
    first, second = source.added(values, 2.0), source.added(values, 2.0)
    assert first.shape == values.shape
    assert (first - values).abs().max() < 60
    assert not torch.equal(first, second)


def test_secure_noise_asks_no_seeded_generator(monkeypatch):
    """Torch's and numpy's generators are Mersenne Twister and PCG64, which are not cryptographic."""
    monkeypatch.setattr(torch, "randn", None)
    monkeypatch.setattr(torch, "rand", None)
    monkeypatch.setattr(np.random, "default_rng", None)
    made = Randomness(secure=True, seed=0, run="")
    for coordinates in (10, 10**6):
        made.noise(torch.Generator(), coordinates=coordinates).added(torch.zeros(8, dtype=torch.int64), 5.0)


def test_seeded_noise_repeats_and_moves_on():
    zeros = torch.zeros(1000, dtype=torch.int64)
    first, second = (SeededNoise(torch.Generator().manual_seed(3)) for _ in range(2))
    a, b = first.added(zeros, 1e9), first.added(zeros, 1e9)
    assert torch.equal(a, second.added(zeros, 1e9))
    assert abs(np.corrcoef(a.numpy(), b.numpy())[0, 1]) < 0.15


def test_undecided_comparisons_are_decided_in_exact_arithmetic(monkeypatch):
    """Everything undecided by 64 bits: the same probabilities, and the number is compared with exp(-x) itself."""
    monkeypatch.setattr(noise, "RELATIVE_ERROR", 10.0)
    drawn = discrete_gaussian(1.0, 4000)
    reach = 2
    seen = [(np.abs(drawn) == k).sum() for k in range(reach + 1)]
    probability = expected(1.0, reach)[reach:] * np.array([1, 2, 2])
    assert (
        chisquare([*seen, 4000 - sum(seen)], 4000 * np.append(probability, 1 - probability.sum())).pvalue
        > 1e-5
    )
    assert noise._decided(int(np.exp(-0.7) * 2**64) - 10**6, Fraction(7, 10))
    assert not noise._decided(int(np.exp(-0.7) * 2**64) + 10**6, Fraction(7, 10))


def test_uniform_numbers_below_a_bound():
    for t in (1, 2, 3, 1000, 2**40 + 1):
        drawn = noise._uniform_below(t, 3000)
        assert drawn.min() >= 0
        assert drawn.max() < t
        assert abs(drawn.mean() - (t - 1) / 2) <= 5 * t / (12 * 3000) ** 0.5
