"""An attack on the mechanism itself, as evidence that can contradict the claim.

A canary whose clipped gradient is C in a fixed public direction takes part in 500 of 1000 heads, trained as one batch
through the private optimizer. The attacker sees every noisy sum, knows everything but the canary (so subtracts the
other images' clipped sum) and adds up what is left along that direction. Full batches are exactly mu-GDP, so counts of
true and false positives at the known midpoint bound mu from below (Nasr et al. 2023, "Tight auditing of differentially
private machine learning"): mu >= Phi^-1(TPR) - Phi^-1(FPR), each rate at its Clopper-Pearson bound of 97.5 %.
"""

import pytest
import torch
from scipy.stats import beta, norm

from mammo_dp.files import Cache
from mammo_dp.privacy.accounting import calibrate
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gaussian import gaussian_epsilon
from mammo_dp.privacy.mechanism import GridSum, PrivateOptimizer, grid_step
from mammo_dp.privacy.noise import SeededNoise
from mammo_dp.privacy.sampling import seeded_generator

HEADS, STEPS, DELTA, C = 500, 100, 1e-4, 0.5
IMAGES, FEATURES = 30, 16


def clipped_sums(weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(heads, d) clipped logistic gradients of (n, d) images summed, for each of (heads, d) weights, one by one."""
    residual = torch.sigmoid(weights @ x.T) - y
    norms = residual.abs() * x.norm(dim=1)
    return (residual * (C / norms.clamp(min=1e-12)).clamp(max=1)) @ x


class Given:
    """A whole sum in place of one contribution."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def squared_norms(self) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.float64)

    def sum(self, kept: torch.Tensor) -> torch.Tensor:
        return (self.values.double() / grid_step(C)).round().long()


def sum_of(values: torch.Tensor) -> GridSum:
    total = GridSum([tuple(values.shape)], clip=C)
    total.add_rounded({0: Given(values)}, finite=torch.tensor([True]))
    return total


def scores(mechanism: Mechanism) -> tuple[torch.Tensor, torch.Tensor]:
    """What the attacker adds up over all steps, in units of C, for heads without the canary and with it."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(IMAGES, FEATURES, generator=g), torch.randint(2, (IMAGES,), generator=g).float()
    direction = torch.nn.functional.normalize(torch.ones(FEATURES), dim=0)
    has_canary = torch.arange(2 * HEADS) >= HEADS
    weights = torch.nn.Parameter(torch.zeros(2 * HEADS, FEATURES))
    optimizer = PrivateOptimizer(
        torch.optim.SGD([weights], lr=1.0), [weights], noise_multiplier=mechanism.noise_multiplier,
        divisor=IMAGES, noise=SeededNoise(seeded_generator(0, "canary", "noise")),
    )  # fmt: skip
    total = torch.zeros(2 * HEADS)
    for _ in range(mechanism.steps):
        known = clipped_sums(weights.detach(), x, y)
        before = weights.detach().clone()
        optimizer.step(sum_of(known + C * has_canary[:, None] * direction))
        seen = (before - weights.detach()) * IMAGES
        total += (seen - known) @ direction / C
    return total[~has_canary], total[has_canary]


def lower_bound(without: torch.Tensor, having: torch.Tensor) -> float:
    """Epsilon at DELTA that 95 % of repetitions stay below if the mechanism keeps it."""
    threshold = STEPS / 2
    hits, alarms = int((having > threshold).sum()), int((without > threshold).sum())
    least_hits = float(beta.ppf(0.025, hits, HEADS - hits + 1)) if hits else 0.0
    most_alarms = float(beta.ppf(0.975, alarms + 1, HEADS - alarms)) if alarms < HEADS else 1.0
    return gaussian_epsilon(max(norm.ppf(least_hits) - norm.ppf(most_alarms), 1e-9), delta=DELTA)


@pytest.fixture(scope="module")
def claimed(tmp_path_factory) -> Mechanism:
    return calibrate(
        target=1.0,
        delta=DELTA,
        sample_rate=1.0,
        steps=STEPS,
        accountant="prv",
        cache=Cache(tmp_path_factory.mktemp("c")),
    )


def test_the_attack_stays_below_the_claim_and_finds_a_noise_of_one_quarter(claimed):
    honest = lower_bound(*scores(claimed))
    quarter = Mechanism(1.0, claimed.noise_multiplier / 4, STEPS)
    cheating = lower_bound(*scores(quarter))
    ceiling = lower_bound(torch.zeros(HEADS), torch.full((HEADS,), float(STEPS)))
    true = gaussian_epsilon(quarter.mu, delta=DELTA)
    print(f"claim 1: bound {honest:.2f}; sigma/4, true epsilon {true:.2f}: bound {cheating:.2f}")
    print(f"ceiling of the method at {HEADS} + {HEADS} heads: {ceiling:.1f}")
    assert honest < 1 < cheating < ceiling


def test_the_attack_is_as_strong_as_it_should_be(claimed):
    """The scores are Gaussian with the mechanism's own mu: a weaker attack would prove nothing."""
    without, having = scores(claimed)
    spread = claimed.noise_multiplier * STEPS**0.5
    assert (having.mean() - without.mean()) / spread == pytest.approx(claimed.mu, abs=0.2)
    assert without.std() == pytest.approx(spread, rel=0.1)
