"""Canaries in the real trainers: what the attacker sees has the distribution that the claim says, and no more."""

import numpy as np
import pytest
import torch

from mammo_dp.audit.bounds import fitted_mu, noise_ratio
from mammo_dp.audit.canaries import Canaries, with_room
from mammo_dp.models.head import build_head
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.features import CachedFeatures
from mammo_dp.training.head_trainer import HeadTrainer
from mammo_dp.training.plans import Plan
from tests.conftest import UNIT_LENGTH, config_of

pytestmark = pytest.mark.slow

IMAGES, FEATURES, COUNT = 20, 400, 800
FULL, POISSON, REPLACE = Mechanism(1.0, 4.0, 16), Mechanism(0.25, 1.0, 20), Mechanism(1.0, 8.0, 16, 2.0)


def attacked(claimed: Mechanism, *, noise: float = 1.0, public: bool = False, seed: int = 0) -> Canaries:
    recipe = config_of("recipe=dp_gd", "recipe.batch_size=5").recipe
    g = torch.Generator().manual_seed(0)
    given = Mechanism(
        claimed.sample_rate, noise * claimed.noise_multiplier, claimed.steps, claimed.sensitivity
    )
    trainer = HeadTrainer(
        build_head(recipe, features=FEATURES, seed=0),
        CachedFeatures(torch.randn(IMAGES, 4, FEATURES, generator=g), prepare=UNIT_LENGTH),
        with_room(Units.of_each(range(IMAGES)), COUNT),
        torch.randint(2, (IMAGES,), generator=g),
        plan=Plan(
            claimed.steps,
            1,
            given,
            first_eligible_step=0,
            public_count=IMAGES,
            private_share=IMAGES / (IMAGES + 4) if public else 1.0,
        ),
        recipe=recipe,
        randomness=Randomness(secure=False, seed=seed, run="audit"),
        device=torch.device("cpu"),
        public=Units.of_each(range(4)) if public else None,
    )
    generator = torch.Generator().manual_seed(seed)
    canaries = Canaries(trainer, claimed, count=COUNT, clip=recipe.max_grad_norm, generator=generator)
    for _ in range(claimed.steps):
        trainer.step()
    return canaries


def parts(canaries: Canaries) -> tuple[np.ndarray, np.ndarray]:
    return canaries.total[canaries.coins].numpy(), canaries.total[~canaries.coins].numpy()


@pytest.mark.parametrize("claimed", [FULL, REPLACE])
@pytest.mark.parametrize("public", [False, True])
def test_scores_of_full_batches_are_normal_with_the_claims_mu(claimed, public):
    """A log-likelihood ratio of mu-GDP is N(+-mu^2/2, mu^2); a weaker attack would prove nothing."""
    inside, outside = parts(attacked(claimed, public=public))
    mu = claimed.mu
    assert inside.mean() == pytest.approx(mu**2 / 2, abs=4 * mu / 20)
    assert outside.mean() == pytest.approx(-(mu**2) / 2, abs=4 * mu / 20)
    assert outside.std() == pytest.approx(mu, rel=0.12)


def test_scores_of_poisson_samples_are_log_likelihood_ratios():
    """The identity E_out[e^score] = 1, and a member scores higher on average."""
    scores = [parts(attacked(POISSON, seed=seed)) for seed in range(4)]
    inside, outside = (np.concatenate(side) for side in zip(*scores, strict=True))
    ratios = np.exp(outside)
    assert ratios.mean() == pytest.approx(1, abs=4 * ratios.std() / len(ratios) ** 0.5)
    assert inside.mean() > outside.mean() + 0.2


@pytest.mark.parametrize("claimed", [FULL, POISSON, REPLACE])
@pytest.mark.parametrize("fraction", [1.0, 0.8])
def test_noise_is_measured(claimed, fraction):
    residuals = attacked(claimed, noise=fraction).residuals
    draws = residuals.size * residuals.count
    value, low, high = noise_ratio(residuals.total_squares, draws, alpha=0.01)
    assert draws == 2 * (FEATURES + 1) * claimed.steps  # of every coordinate, not of the canaries' alone
    assert low < fraction < high
    assert value == pytest.approx(fraction, rel=0.03)


def test_less_noise_than_claimed_separates_more():
    mu = [fitted_mu(*parts(attacked(FULL, noise=fraction)), alpha=0.05) for fraction in (1.0, 0.25)]
    assert mu[0] < FULL.mu < 3 * FULL.mu < mu[1]


def test_canaries_pass_the_trainers_own_clipping(monkeypatch):
    """Negative control: the canary is 100 C long, and only the sum's clipping hides that."""
    monkeypatch.setattr(
        "mammo_dp.privacy.mechanism.factors_within", lambda norms, masses, clip: clip / clip * norms / norms
    )
    monkeypatch.setattr("mammo_dp.privacy.mechanism.GridSum.add_rounded", unguarded)
    assert fitted_mu(*parts(attacked(FULL)), alpha=0.05) > 50 * FULL.mu


def unguarded(total, rounded, *, finite):
    for number, part in rounded.items():
        added = part.sum(finite.double())
        total._added[number] = total._added[number] + added if number in total._added else added
    return torch.zeros(len(finite))


def test_the_trainers_own_sampler_draws_them():
    canaries = attacked(POISSON)
    turns = canaries.residuals.turns
    assert len(turns) == IMAGES + COUNT
    for part in (turns[:IMAGES], turns[IMAGES:]):
        assert float(part.mean()) / POISSON.steps == pytest.approx(
            0.25, abs=4 * (0.19 / 20 / len(part)) ** 0.5
        )
