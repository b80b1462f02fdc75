"""Numbers pinned from outside: Opacus' own test, the paper's noise multipliers, Google's PLD accountant.

PLD values were computed with dp-accounting 0.6.0.
"""

import pytest

from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.privacy import accounting
from mammo_dp.privacy.accounting import calibrate, epsilon
from mammo_dp.privacy.events import Mechanism


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


def test_published_value():
    mechanism = Mechanism(sample_rate=0.04, noise_multiplier=1.5, steps=90 * 25)
    assert epsilon(mechanism, delta=1e-5, accountant="rdp") == pytest.approx(7.32911117143, abs=1e-6)
    prv = epsilon(mechanism, delta=1e-5, accountant="prv")
    assert prv == pytest.approx(6.779, abs=0.005)
    assert prv == pytest.approx(6.769, abs=0.02)  # PLD


@pytest.mark.parametrize(
    ("target", "sigma"), [(1, 20.313), (6, 4.335), (12, 2.540), (20, 1.784), (60, 0.961)]
)
def test_rdp_noise_of_the_paper(target, sigma, cache):
    """N = 1104, batch 128: q = 1/9, 300 epochs of 9 steps (published code)."""
    found = calibrate(target=target, delta=1e-4, sample_rate=1 / 9, steps=2700, accountant="rdp", cache=cache)
    assert found.noise_multiplier == pytest.approx(sigma, rel=0.002)


@pytest.mark.parametrize(("target", "sigma"), [(1, 10.63), (6, 2.344), (12, 1.447), (20, 1.082), (60, 0.683)])
def test_rdp_noise_of_the_paper_pooled(target, sigma, cache):
    found = calibrate(
        target=target, delta=1e-4, sample_rate=1 / 33, steps=9900, accountant="rdp", cache=cache
    )
    assert found.noise_multiplier == pytest.approx(sigma, rel=0.002)


@pytest.mark.parametrize(("target", "sigma"), [(1, 18.604), (6, 4.039), (12, 2.394)])
def test_prv_noise(target, sigma, cache):
    found = calibrate(target=target, delta=1e-4, sample_rate=1 / 9, steps=2700, accountant="prv", cache=cache)
    assert found.noise_multiplier == pytest.approx(sigma, rel=0.001)
    spent = epsilon(found, delta=1e-4, accountant="prv")
    assert target - 0.01 < spent <= target


@pytest.mark.parametrize(("target", "sigma"), [(1, 31.86), (6, 6.851), (12, 3.952), (20, 2.694), (60, 1.263)])
def test_full_batch_noise(target, sigma, cache):
    found = calibrate(target=target, delta=1e-4, sample_rate=1.0, steps=100, accountant="prv", cache=cache)
    assert found.noise_multiplier == pytest.approx(sigma, rel=5e-4)
    assert found.accountant("prv") == "gaussian"
    assert target - 1e-5 < epsilon(found, delta=1e-4, accountant="prv") <= target


@pytest.mark.parametrize("rate", [0.04, 1 / 9])
def test_rdp_is_looser_than_prv(rate):
    for sigma in (1.0, 3.0):
        mechanism = Mechanism(rate, sigma, 500)
        prv = epsilon(mechanism, delta=1e-4, accountant="prv")
        assert epsilon(mechanism, delta=1e-4, accountant="rdp") >= prv
        halved = Mechanism(rate, sigma / 2, 500)
        assert epsilon(halved, delta=1e-4, accountant="prv") > 1.5 * prv  # a control: less noise costs


def test_first_step_found_by_bisection(cache, monkeypatch):
    mechanism = calibrate(target=6, delta=1e-4, sample_rate=1 / 9, steps=2700, accountant="rdp", cache=cache)
    calls = []
    original = accounting.epsilon
    monkeypatch.setattr(accounting, "epsilon", lambda *a, **k: calls.append(1) or original(*a, **k))
    arguments = {"target": 6, "delta": 1e-4, "accountant": "rdp", "every": 9, "cache": cache}
    step = accounting.first_step_at_least(0.75, mechanism, **arguments)
    assert len(calls) <= 10
    assert step % 9 == 0
    before, at = (original(Mechanism(1 / 9, mechanism.noise_multiplier, s), delta=1e-4, accountant="rdp")
                  for s in (step - 9, step))  # fmt: skip
    assert before < 4.5 <= at
    calls.clear()
    assert accounting.first_step_at_least(0.75, mechanism, **arguments) == step
    assert not calls  # cached


def test_an_epsilon_that_no_noise_can_certify_is_one_sentence(cache):
    with pytest.raises(UserError, match="too small"):
        calibrate(target=1e-3, delta=1e-4, sample_rate=1 / 9, steps=90, accountant="prv", cache=cache)


def test_calibration_is_cached_by_its_arguments(cache, monkeypatch):
    arguments = {"delta": 1e-4, "sample_rate": 0.1, "steps": 50, "accountant": "rdp", "cache": cache}
    first = calibrate(target=2, **arguments)
    monkeypatch.setattr(accounting, "_least_noise", lambda *a, **k: 123.0)
    assert calibrate(target=2, **arguments) == first
    assert calibrate(target=3, **arguments).noise_multiplier == 123.0
