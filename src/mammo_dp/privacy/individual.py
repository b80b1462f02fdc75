"""Individual accounts: what a run has revealed about each unit, from the lengths of its own clipped contributions.

Full batches: mu_i^2 = sum over steps of (length_i / (sigma C))^2, exact (Feldman, Zrnic 2021; Yu et al. 2023). Poisson
sampling: a step in which the unit was drawn counts with its length, every other step with C, so that the sum of the
steps' Renyi divergences is an upper bound (docs/mechanism.md). Both hold for the run that happened. They are functions
of the unit's own data, private themselves, and for the owner of the data alone.
"""

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gaussian import gaussian_epsilon, gaussian_mu
from mammo_dp.privacy.mechanism import SHORTENED

LEVELS = 32  # of lengths under Poisson sampling, each rounded up: to C / LEVELS
ORDERS = (*range(2, 64), 80, 128, 256, 512)  # whole ones: others take a hundred times as long


@dataclass
class Individual:
    """`state`: (units,) sums of squared lengths over C^2 of a full batch; else (units, LEVELS) numbers of draws."""

    mechanism: Mechanism | None
    state: torch.Tensor

    @classmethod
    def of(cls, units: int, mechanism: Mechanism | None) -> "Individual":
        poisson = mechanism is not None and not mechanism.is_full_batch
        return cls(mechanism, torch.zeros((units, LEVELS) if poisson else (units,), dtype=torch.float64))

    def add(self, numbers: torch.Tensor, squared: torch.Tensor) -> None:
        """Count one step. numbers: of the units that took part; squared: (units,) their squared lengths over C^2.

        Clipping aims a little below C, and rounding moves lengths by less: both count for the unit, so that one that
        was clipped counts with C.
        """
        squared = (squared.cpu() / (2 * SHORTENED - 1) ** 2).clamp(max=1.0)
        if self.state.ndim == 1:
            self.state[numbers] += squared
        else:
            level = (squared.sqrt() * LEVELS).ceil().long().clamp(1, LEVELS) - 1
            self.state[numbers, level] += 1

    def mu(self, *, delta: float, most: float) -> np.ndarray:
        """(units,) mu of each unit at the relation that the mechanism claims.

        Under Poisson sampling the mu whose epsilon at `delta` is the unit's. most: that of the whole run, which no
        unit exceeds.
        """
        assert self.mechanism is not None
        m = self.mechanism
        if self.state.ndim == 1:
            lengths = self.state.sqrt().numpy()
            if m.sensitivity == 2:  # what takes its place may be as long as C, in every step (Minkowski)
                lengths = lengths + np.sqrt(m.steps)
            return np.minimum(lengths / m.noise_multiplier, most)
        table = np.array(
            [_divergences(m.sample_rate, m.noise_multiplier, level) for level in range(1, LEVELS + 1)]
        )
        draws = self.state.numpy()
        # steps without the unit's draw count with C
        rdp = draws @ table + (m.steps - draws.sum(axis=1))[:, None] * table[-1]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
            found = [get_privacy_spent(orders=list(ORDERS), rdp=row, delta=delta)[0] for row in rdp]
        return np.array([min(gaussian_mu(float(epsilon), delta=delta), most) for epsilon in found])


@cache
def _divergences(rate: float, sigma: float, level: int) -> np.ndarray:
    """Renyi divergences of one step of a unit with length level / LEVELS, at ORDERS."""
    return np.asarray(
        compute_rdp(q=rate, noise_multiplier=sigma * LEVELS / level, steps=1, orders=list(ORDERS))
    )


def epsilons(mu: np.ndarray, *, delta: float) -> np.ndarray:
    """(units,) epsilon at `delta` of each mu."""
    values, place = np.unique(mu, return_inverse=True)
    return np.array([gaussian_epsilon(float(value), delta=delta) for value in values])[place]
