"""Noise on the grid: integers from a discrete Gaussian distribution, seeded or from a cryptographic source.

The discrete Gaussian of scale s has P[k] proportional to exp(-k^2 / 2 s^2) over the integers (Canonne, Kamath, Steinke
2020, "The discrete Gaussian for differential privacy").
"""

import decimal
import math
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch

LARGEST_EXACT = 5000  # coordinates up to which opendp samples: 30 microseconds each
RELATIVE_ERROR = 2.0**-40  # of a float64 probability below, far above what its few operations can be wrong by
RESOLUTION = 64  # bits of a uniform number that are compared first
EXTRA_BITS = 192  # further bits where these do not decide
DIGITS = 120  # of exp(-x) there, far more than 256 bits hold
Exponent = Callable[[int], Fraction]  # of the i-th probability, exact


NOTES = {
    "opendp": "opendp's exact sampler of the discrete Gaussian",
    "vectorised": "an exact sampler of the discrete Gaussian (docs/mechanism.md)",
}


def randomness_notes(noise: "NoiseSource | None") -> tuple[str, ...]:
    """What a guarantee rests on here: whence secure noise comes."""
    if noise is None or noise.sampler not in NOTES:
        return ()
    return (
        f"noise and batches come from the operating system's cryptographic generator, noise by {NOTES[noise.sampler]}",
    )


class NoiseSource(Protocol):
    sampler: str  # for the record and the statement

    def added(self, values: torch.Tensor, scale: float) -> torch.Tensor:
        """values: int64 -> values plus noise of the given scale, int64."""
        ...


class SeededNoise:
    """Normal numbers of a seeded generator, rounded. Fast, reproducible, and never called a release."""

    sampler = "seeded"

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def added(self, values: torch.Tensor, scale: float) -> torch.Tensor:
        drawn = _normal(values.numel(), self.generator).mul_(scale).round_().view(values.shape)
        return drawn.long().to(values.device).add_(values)


def _normal(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) standard normal float64 by Box and Muller: three times as fast as torch.randn in double precision."""
    half = (count + 1) // 2
    options = {"dtype": torch.float64, "generator": generator, "device": generator.device}
    radius = torch.rand(half, **options).neg_().log1p_().mul_(-2).sqrt_()
    angle = torch.rand(half, **options).mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


class SecureNoise:
    """Exact discrete Gaussian noise from the operating system's cryptographic generator.

    Up to LARGEST_EXACT coordinates at a time by opendp's Gaussian mechanism, beyond by `discrete_gaussian` below.
    """

    def __init__(self, coordinates: int) -> None:
        self.by_opendp = coordinates <= LARGEST_EXACT
        self.sampler = "opendp" if self.by_opendp else "vectorised"

    def added(self, values: torch.Tensor, scale: float) -> torch.Tensor:
        flat = values.flatten().cpu()
        noisy = (
            _by_opendp(flat, scale)
            if self.by_opendp
            else flat + torch.from_numpy(discrete_gaussian(scale, len(flat)))
        )
        return noisy.view(values.shape).to(values.device)


def _by_opendp(values: torch.Tensor, scale: float) -> torch.Tensor:
    import opendp.prelude  # takes a second to import

    dp: Any = opendp.prelude

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64"), size=len(values)), dp.l2_distance(T=float)
    return torch.tensor(dp.m.make_gaussian(*space, scale=scale)(values.tolist()), dtype=torch.int64)


# --- a sampler for many coordinates ---------------------------------------------------------------------------------


def discrete_gaussian(scale: float, count: int) -> np.ndarray:
    """(count,) int64 exact samples, many at a time, from the operating system's random bytes.

    Canonne, Kamath, Steinke 2020, Alg. 1 to 3: a discrete Laplace proposal of scale t = floor(s) + 1, accepted with
    probability exp(-(|y| - s^2 / t)^2 / 2 s^2). Each acceptance compares a uniform number with exp(-x) in float64;
    where 64 bits do not decide beyond RELATIVE_ERROR, exact arithmetic does.
    """
    t = int(scale) + 1
    square = Fraction(scale) ** 2
    found: list[np.ndarray] = []
    missing = count
    while missing:
        proposed = _discrete_laplace(t, int(missing * 1.4) + 16)
        distance = np.abs(proposed) - scale / t * scale
        accepted = proposed[
            _bernoulli_exp((distance / scale) ** 2 / 2, _gaussian_exponent(proposed, square, t))
        ]
        found.append(accepted[:missing])
        missing -= len(found[-1])
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _gaussian_exponent(proposed: np.ndarray, square: Fraction, t: int) -> Exponent:
    return lambda i: (abs(int(proposed[i])) - square / t) ** 2 / (2 * square)


def _discrete_laplace(t: int, count: int) -> np.ndarray:
    """About `count` samples with P[y] proportional to exp(-|y| / t), or some fewer."""
    low = _uniform_below(t, count)
    low = low[_bernoulli_exp(low / t, lambda i: Fraction(int(low[i]), t))]
    high = np.zeros(len(low), dtype=np.int64)
    going = np.arange(len(low))
    while len(going):  # a geometric number: successes of exp(-1) before the first failure
        going = going[_bernoulli_exp(np.ones(len(going)), lambda i: Fraction(1))]
        high[going] += 1
    size = low + t * high
    negative = (np.frombuffer(os.urandom(len(size)), dtype=np.uint8) & 1).astype(bool)
    kept = ~(negative & (size == 0))  # else zero would come twice as often
    return np.where(negative, -size, size)[kept]


def _uniform_below(t: int, count: int) -> np.ndarray:
    """(count,) int64, uniform on 0 to t - 1: bits of the next power of two, those too large thrown away."""
    bits = (t - 1).bit_length()
    found, missing = [np.empty(0, dtype=np.int64)], count
    while missing:
        drawn = (
            (_words(2 * missing) >> np.uint64(64 - bits)).astype(np.int64)
            if bits
            else np.zeros(missing, np.int64)
        )
        found.append(drawn[drawn < t][:missing])
        missing -= len(found[-1])
    return np.concatenate(found)


def _bernoulli_exp(exponents: np.ndarray, exact: Exponent) -> np.ndarray:
    """(n,) bool, each true with probability exp(-x). exact: x where float64 may not do."""
    words = _words(len(exponents))
    probability = np.exp(-exponents)
    uniform = words.astype(np.float64) * 2.0**-RESOLUTION  # rounding is within RELATIVE_ERROR
    slack = probability * RELATIVE_ERROR + 2.0**-50
    below = uniform < probability
    for i in np.flatnonzero(np.abs(uniform - probability) <= slack):
        below[i] = _decided(int(words[i]), exact(int(i)))
    return below


def _decided(word: int, exponent: Fraction) -> bool:
    """Whether a uniform number that begins with these 64 bits lies below exp(-exponent)."""
    uniform = (word << EXTRA_BITS) | int.from_bytes(os.urandom(EXTRA_BITS // 8), "big")
    with decimal.localcontext(prec=DIGITS):  # whose exp is rounded correctly
        limit = (-decimal.Decimal(exponent.numerator) / decimal.Decimal(exponent.denominator)).exp()
        return decimal.Decimal(uniform) < limit * 2 ** (RESOLUTION + EXTRA_BITS)


def _words(count: int) -> np.ndarray:
    """(count,) uint64 of the operating system."""
    return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
