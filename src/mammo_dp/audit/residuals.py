"""What a run's noise looks like to somebody who knows the exact sums: enough, fresh, independent, and everywhere.

Every test is exact or conservative, and gives a p-value under the claim. All of them share the audit's alpha.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import binom, chi2, norm

from mammo_dp.privacy.events import Mechanism

BINS = 32  # of the noise's distribution
LOW_BITS = 4  # of a noisy sum
FIRST = 4096  # coordinates of the first step's noise, compared between runs
LEAST_VARIANCE = 15.0  # of the number of units in a batch, or of turns of a unit
LARGEST_SCALE = 2.0**50  # of seeded noise, whose float64 numbers have no low bits far beyond

TESTS = {
    "noise": "the noise is smaller than claimed",
    "steps": "a step has less noise than claimed",
    "coordinates": "a coordinate has less noise than claimed",
    "repeated": "the noise of different steps is not independent",
    "consecutive": "the noise of consecutive steps is not independent",
    "rows": "the noise inside a row of a layer is not independent",
    "columns": "the noise of a layer's rows is not independent",
    "neighbours": "the noise of neighbouring coordinates is not independent",
    "distribution": "the noise is not Gaussian",
    "fresh": "the noise of different runs is not independent",
    "step": "what moves the weights is not the noisy sum that was released",
    "low_bits": "the low bits of the noisy sums are not random: they may be those of the exact sums",
    "rate": "units are drawn more often than claimed",
    "batches": "batch sizes vary differently from those of Poisson sampling",
    "turns": "units take turns, unlike under Poisson sampling",
}


class Residuals:
    """Collects (noisy - exact) / scale of every step."""

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], *, scale: float, claimed: Mechanism, units: int
    ) -> None:
        self.shapes, self.scale, self.claimed = shapes, scale, claimed
        size = sum(math.prod(shape) for shape in shapes)
        self.size, self.count = size, 0
        self.squares_of_steps: list[float] = []
        self.squares = torch.zeros(size, dtype=torch.float64)
        self.sums = torch.zeros(size, dtype=torch.float64)
        self.before: torch.Tensor | None = None
        self.consecutive = self.neighbours = 0.0
        self.grouped = {"rows": [0.0, 0], "columns": [0.0, 0]}
        self.bins = torch.zeros(BINS, dtype=torch.float64)
        self.low_bits = torch.zeros(2**LOW_BITS, dtype=torch.float64)
        self.as_released = True
        self.first: torch.Tensor | None = None
        self.batches: list[int] = []
        self.turns = torch.zeros(units, dtype=torch.float64)

    def drawn(self, chosen: torch.Tensor) -> None:
        """Note the units of a step."""
        self.batches.append(len(chosen))
        self.turns[chosen] += 1

    def add(self, exact: Sequence[torch.Tensor], noisy: Sequence[torch.Tensor]) -> None:
        """Note a step's noise, from its blocks in grid steps."""
        parts = [((n - e).double() / self.scale).cpu() for e, n in zip(exact, noisy, strict=True)]
        z = torch.cat([part.flatten() for part in parts])
        if self.first is None:
            self.first = z[:FIRST].clone()
        self.count += 1
        square = z.square()
        self.squares_of_steps.append(float(square.sum()))
        self.squares += square
        self.sums += z
        if self.before is not None:
            self.consecutive += float(z @ self.before)
        self.before = z
        self.neighbours += float(z[1:] @ z[:-1])
        for part in parts:
            rows = part.view(part.shape[0], -1)
            if rows.shape[0] > 1:
                self._note("columns", rows.sum(dim=0) / math.sqrt(rows.shape[0]))
            if rows.shape[1] > 1:
                self._note("rows", rows.sum(dim=1) / math.sqrt(rows.shape[1]))
        self.bins += torch.histc(torch.special.ndtr(z), bins=BINS, min=0, max=1)
        low = torch.cat([n.flatten().cpu() for n in noisy]) & (2**LOW_BITS - 1)
        self.low_bits += torch.bincount(low, minlength=2**LOW_BITS)

    def _note(self, name: str, sums: torch.Tensor) -> None:
        self.grouped[name][0] += float(sums.square().sum())
        self.grouped[name][1] += len(sums)

    @property
    def total_squares(self) -> float:
        return sum(self.squares_of_steps)

    def p_values(self) -> dict[str, float]:
        """By TESTS; 1 where a test does not apply."""
        steps, size = self.count, self.size
        pairs, flat = (steps - 1) * size, steps * (size - 1)
        found = {
            "noise": float(chi2.cdf(self.total_squares, steps * size)),
            "steps": min(1.0, steps * float(chi2.cdf(min(self.squares_of_steps), size))),
            "coordinates": min(1.0, size * float(chi2.cdf(float(self.squares.min()), steps))),
            "repeated": _two_sided(chi2(size), float(self.sums.square().sum()) / steps) if steps > 1 else 1.0,
            "consecutive": _two_sided(norm, self.consecutive / math.sqrt(pairs)) if pairs > 30 else 1.0,
            "neighbours": _two_sided(norm, self.neighbours / math.sqrt(flat)) if flat > 30 else 1.0,
            "distribution": _uniform(self.bins),
            "step": 1.0 if self.as_released else 0.0,
            "low_bits": _uniform(self.low_bits) if self.scale < LARGEST_SCALE else 1.0,
        }
        for name, (total, count) in self.grouped.items():
            found[name] = _two_sided(chi2(count), total) if count else 1.0
        return {name: found.get(name, 1.0) for name in TESTS} | self._sampling()

    def _sampling(self) -> dict[str, float]:
        rate, units, steps = self.claimed.sample_rate, len(self.turns), len(self.batches)
        if rate == 1 or not steps:
            return {}
        spread = rate * (1 - rate)
        sizes = float(((np.array(self.batches) - units * rate) ** 2).sum()) / (units * spread)
        turns = float((self.turns - steps * rate).square().sum()) / (steps * spread)
        return {
            # the chi-squared approximation is too narrow where little is expected
            "batches": _two_sided(chi2(steps), sizes) if units * spread >= LEAST_VARIANCE else 1.0,
            "turns": _two_sided(chi2(units), turns) if steps * spread >= LEAST_VARIANCE else 1.0,
            "rate": float(binom.sf(sum(self.batches) - 1, units * steps, rate)),
        }


def fresh_noise(first: Sequence[torch.Tensor]) -> float:
    """P-value of independence between the first steps of several runs, (coordinates,) each; 1 where nothing tells."""
    pairs = [(a, b) for i, a in enumerate(first) for b in first[:i]]
    p = [_two_sided(norm, float(a @ b) / math.sqrt(len(a))) for a, b in pairs if len(a) > 30]
    return min(1.0, len(p) * min(p)) if p else 1.0


def _two_sided(distribution, value: float) -> float:
    return min(1.0, 2 * float(min(distribution.cdf(value), distribution.sf(value))))


def _uniform(counts: torch.Tensor) -> float:
    """P-value of equal probabilities, where enough was counted for the chi-squared approximation."""
    expected = float(counts.sum()) / len(counts)
    if expected < 50:
        return 1.0
    return float(chi2.sf(float((counts - expected).square().sum()) / expected, len(counts) - 1))
