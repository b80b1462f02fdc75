"""Google's PLD accountant beside Opacus', groups of images, composition, and what happens when accountants disagree.

Pinned numbers: the design's own computations with dp-accounting 0.6.0, and the exact Gaussian formula.
"""

import math

import pytest

from mammo_dp.files import Cache
from mammo_dp.privacy import loss_distribution as losses
from mammo_dp.privacy.accounting import epsilon
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gaussian import gaussian_epsilon, gaussian_true_positive_rate

NINTH = 1 / 9  # q of the paper's N = 1104 at batch 128


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


def test_pld_of_the_published_mechanism(cache):
    found = losses.cross_check(Mechanism(0.04, 1.5, 90 * 25), delta=1e-5, cache=cache)
    assert found["rdp"] == pytest.approx(7.32911117143, abs=1e-6)
    assert found["prv"] == pytest.approx(6.779, abs=0.005)
    assert found["pld"] == pytest.approx(6.769, abs=0.005)
    assert found["rdp_looseness"] == pytest.approx(7.329 - 6.769, abs=0.01)


@pytest.mark.parametrize(
    ("sigma", "target"), [(18.604, 1), (4.039, 6), (2.394, 12), (1.697, 20), (0.931, 60)]
)
def test_prv_and_pld_agree(sigma, target, cache):
    """Noise multipliers of the paper's 2700 steps by PRV."""
    found = losses.cross_check(Mechanism(NINTH, sigma, 2700), delta=1e-4, cache=cache)
    assert found["pld"] == pytest.approx(target, abs=0.03)
    assert abs(found["prv"] - found["pld"]) < 0.03
    assert found["rdp"] >= found["prv"]


@pytest.mark.parametrize("mu", [0.3139, 2.53, 7.92])
@pytest.mark.parametrize("sensitivity", [1.0, 2.0])
def test_full_batch_agrees_with_the_exact_formula(mu, sensitivity, cache):
    mechanism = Mechanism(1.0, sensitivity * math.sqrt(200) / mu, 200, sensitivity)
    found = losses.cross_check(mechanism, delta=1e-4, cache=cache)
    assert found["pld"] == pytest.approx(gaussian_epsilon(mu, delta=1e-4), abs=0.003)
    assert found["gaussian"] == gaussian_epsilon(mechanism.mu, delta=1e-4)


@pytest.mark.parametrize(
    ("found", "fails"),
    [
        ({"prv": 6.00, "rdp": 6.4, "pld": 5.99}, False),
        ({"prv": 6.06, "rdp": 6.4, "pld": 6.00}, True),  # PRV too far above
        ({"prv": 5.94, "rdp": 6.4, "pld": 6.00}, True),  # PRV below
        ({"prv": 6.00, "rdp": 5.94, "pld": 6.00}, True),  # RDP below: it may be loose, never low
        ({"prv": 6.00, "rdp": 9.99, "pld": 6.00}, False),  # loose is shown, not refused
    ],
)
def test_disagreement_fails(found, fails):
    if not fails:
        losses.compare(found, tight="prv")
        return
    with pytest.raises(losses.AccountantsDisagree, match="must not be published"):
        losses.compare(found, tight="prv")


def test_a_wrong_accountant_is_caught(cache, monkeypatch):
    """Negative control: one that forgets a third of the steps."""

    def wrong(mechanism, **kwargs):
        return epsilon(
            Mechanism(mechanism.sample_rate, mechanism.noise_multiplier, mechanism.steps * 2 // 3), **kwargs
        )

    monkeypatch.setattr(losses, "epsilon", wrong)
    with pytest.raises(losses.AccountantsDisagree):
        losses.cross_check(Mechanism(NINTH, 4.039, 2700), delta=1e-4, cache=cache)


@pytest.mark.parametrize(
    ("sigma", "images", "expected"), [(18.604, 2, 2.18), (18.604, 4, 4.94), (4.039, 2, 14.5)]
)
def test_groups_of_images(sigma, images, expected, cache):
    found = losses.pld_epsilon(Mechanism(NINTH, sigma, 2700), delta=1e-4, group=images, cache=cache)
    assert found == pytest.approx(expected, rel=0.01)


def test_the_patient_with_14_images(cache):
    found = losses.pld_epsilon(Mechanism(NINTH, 18.604, 2700), delta=1e-4, group=14, cache=cache)
    assert found == pytest.approx(24.96, rel=0.01)
    assert found > 14  # never k times epsilon


def test_group_of_a_full_batch_is_k_mu(cache):
    mechanism = Mechanism(1.0, 31.86, 100)
    exact = losses.group_epsilon(mechanism, images=3, delta=1e-4, cache=cache)
    assert exact == gaussian_epsilon(3 * mechanism.mu, delta=1e-4)
    assert losses.pld_epsilon(mechanism, delta=1e-4, group=3, cache=cache) == pytest.approx(exact, abs=0.003)


def test_composition_of_unlike_mechanisms():
    """Two full batches compose to the root of the sum of squares of mu; a Poisson part only adds."""
    first, second = Mechanism(1.0, 40.0, 100), Mechanism(1.0, 10.0, 25)
    both = losses.composed([(first, 1), (second, 1)]).get_epsilon_for_delta(1e-4)
    assert both == pytest.approx(gaussian_epsilon(math.hypot(0.25, 0.5), delta=1e-4), abs=0.003)
    more = losses.composed([(first, 1), (second, 1), (Mechanism(0.1, 4.0, 300), 1)]).get_epsilon_for_delta(
        1e-4
    )
    assert more > both


def test_attack_bound_from_the_distribution():
    """Against the exact trade-off of a Gaussian; the claim alone gives .027 at (1, 1e-4) with 1 % false positives."""
    for mu in (0.3139, 1.4596, 2.5304):
        loss = losses.composed([(Mechanism(1.0, 1 / mu, 1), 1)])
        found = losses.true_positive_rate(loss, false_positive_rate=0.01)
        assert found == pytest.approx(gaussian_true_positive_rate(mu, false_positive_rate=0.01), rel=0.01)
    claim = losses.true_positive_rate_of_claim(1.0, delta=1e-4, false_positive_rate=0.01)
    assert claim == pytest.approx(math.e * 0.01 + 1e-4)


def test_replacing_an_image_inside_a_patient():
    """Above the epsilon of the whole patient; for a full batch not below the exact 2 mu; finite where tails end."""
    full = Mechanism(1.0, 31.86, 100)
    bound = losses.replaced_within_unit([full], delta=1e-4)
    assert bound >= gaussian_epsilon(2 * full.mu, delta=1e-4) - 1e-6
    poisson = Mechanism(NINTH, 18.604, 2700)
    assert 2 < losses.replaced_within_unit([poisson], delta=1e-4) < 4
    assert 60 < losses.replaced_within_unit([Mechanism(NINTH, 0.931, 2700)], delta=1e-4) < 1e4
