"""Accounts by cohort and unit, the headline, composition, and the words."""

import json
import math

import numpy as np
import pytest

from mammo_dp.files import Cache, to_json
from mammo_dp.privacy.events import Event, Mechanism
from mammo_dp.privacy.gaussian import gaussian_epsilon, gaussian_mu
from mammo_dp.privacy.ledger import Bound, Ledger, events_of
from mammo_dp.privacy.statement import statement

FULL = Mechanism(1.0, 9.69, 200)  # epsilon 6 at delta 1e-4
POISSON = Mechanism(1 / 9, 18.604, 2700)  # epsilon 1
INF = math.inf


def event(**changes) -> Event:
    values = {
        "what": "training of the classifier", "stage": "train_classifier", "cohort": "training", "study": "toy",
        "effect": "shapes_model", "why": "it was trained on them", "mechanism": FULL, "unit": "patient",
    } | changes  # fmt: skip
    return Event(**values)


CHOICE = {
    "what": "choice of the epoch",
    "cohort": "validation",
    "mechanism": None,
    "unit": "image",
    "why": "it was chosen on them",
}
GENERATOR = {"what": "training of the generator", "mechanism": None, "why": "it saw them"}


def ledger(tmp_path, *events: Event, claimed="patient", **more) -> Ledger:
    return Ledger(events, claimed=claimed, delta=1e-4, cache=Cache(tmp_path), **more)


def account(found: Ledger, cohort: str, unit: str):
    (one,) = [a for a in found.accounts if (a.cohort, a.unit) == (cohort, unit)]
    return one


def test_one_event_keeps_its_epsilon(tmp_path):
    found = ledger(tmp_path, event())
    assert found.headline_epsilon == pytest.approx(6, abs=0.01)
    assert found.headline.attack == pytest.approx(0.19, abs=0.01)
    # one image of a patient who stays is replaced, not removed
    assert account(found, "training", "image").epsilon == pytest.approx(
        gaussian_epsilon(2 * FULL.mu, delta=1e-4)
    )


def test_a_replacing_mechanism_covers_an_image_inside_a_patient(tmp_path):
    mechanism = Mechanism(1.0, 9.69, 200, sensitivity=2.0)
    found = ledger(tmp_path, event(mechanism=mechanism, adjacency="replace"))
    assert account(found, "training", "image").epsilon == found.headline_epsilon


def test_one_replacing_event_makes_all_count_for_replacement(tmp_path):
    """Two events at epsilon 6: 9.2 by adding what each claims, which holds for no relation; 16.8 for replacement."""
    replaced = event(
        mechanism=Mechanism(1.0, 2 * 9.69, 200, sensitivity=2.0), adjacency="replace", artifact="a"
    )
    removed = event(artifact="b")
    found = ledger(tmp_path, replaced, removed).headline_epsilon
    assert found == pytest.approx(16.8, abs=0.05)
    assert found == pytest.approx(gaussian_epsilon(math.hypot(1, 2) * FULL.mu, delta=1e-4))
    poisson = ledger(tmp_path, replaced, event(mechanism=POISSON)).headline_epsilon
    assert poisson > ledger(tmp_path, replaced).headline_epsilon


@pytest.mark.parametrize(("single", "three"), [(1, 1.9), (6, 12), (60, 144)])
def test_released_seeds_compose(tmp_path, single, three):
    """Figures of privacy accounting for full batches: three seeds at 1, 6, 60."""
    sigma = {1: 31.86, 6: 6.851, 60: 1.263}[single]
    seeds = [event(mechanism=Mechanism(1.0, sigma, 100), artifact=f"seed{i}") for i in range(3)]
    assert ledger(tmp_path, seeds[0]).headline_epsilon == pytest.approx(single, rel=0.01)
    assert ledger(tmp_path, *seeds).headline_epsilon == pytest.approx(three, rel=0.04)


def test_unlike_events_compose_by_their_distributions(tmp_path):
    both = ledger(
        tmp_path, event(mechanism=POISSON), event(mechanism=FULL, what="generator")
    ).headline_epsilon
    assert 6 < both < 7
    alone = ledger(tmp_path, event(mechanism=POISSON)).headline_epsilon
    assert alone == pytest.approx(1, abs=0.01)
    assert alone <= 1  # by the accountant that the event names


def test_image_level_events_per_patient(tmp_path):
    one = event(unit="image", mechanism=Mechanism(1.0, 31.86, 100))
    unknown = ledger(tmp_path, one, claimed="image")
    assert account(unknown, "training", "patient").epsilon is None
    known = ledger(tmp_path, one, claimed="image", most_images=14)
    exact = gaussian_epsilon(14 * one.mechanism.mu, delta=1e-4)
    assert account(known, "training", "patient").epsilon == pytest.approx(exact)
    assert exact > 14
    # a claim per patient that rests on an image-level event cannot be made without that number
    assert ledger(tmp_path, one, claimed="patient").headline_epsilon == INF


def test_validation_and_training_stand_apart(tmp_path):
    found = ledger(tmp_path, event(), event(**CHOICE))
    assert account(found, "training", "patient").epsilon == pytest.approx(6, abs=0.01)
    assert account(found, "validation", "patient").epsilon == INF
    assert found.headline_epsilon == INF
    assert found.headline.cohort == "validation"
    assert found.dominant_event.what == "choice of the epoch"


def test_published_and_internal_events_never_count(tmp_path):
    published = event(what="metrics", cohort="test", effect="published", mechanism=None)
    internal = event(what="losses", cohort="validation", effect="internal", mechanism=None)
    found = ledger(tmp_path, event(), published, internal)
    assert found.headline_epsilon == pytest.approx(6, abs=0.01)
    assert {a.cohort for a in found.accounts} == {"training"}
    record = found.to_dict()
    assert record["not_protected"] == ["test (toy): metrics"]
    assert record["must_not_be_released"] == ["validation (toy): losses"]


def test_a_generator_without_privacy_breaks_the_whole_and_the_mechanism_is_named_beside_it(tmp_path):
    found = ledger(tmp_path, event(**GENERATOR), event())
    text = statement(found)
    assert found.headline_epsilon == INF
    assert "epsilon = infinity" in text
    assert "By itself, the training of the classifier is (6" in text
    assert "it saw them" in text


def test_two_studies_do_not_compose(tmp_path):
    found = ledger(tmp_path, event(), event(study="other"))
    assert found.headline_epsilon == pytest.approx(6, abs=0.01)
    assert len(found.accounts) == 4


def test_nothing_private(tmp_path):
    found = ledger(tmp_path)
    assert found.headline is None
    assert found.headline_epsilon == 0
    assert "estimated from private images" in statement(found)


def test_events_survive_json(tmp_path):
    events = (event(), event(**CHOICE), event(artifact="seed1"))
    record = json.loads(to_json(ledger(tmp_path, *events).to_dict()))
    assert events_of([record, record]) == events


def test_for_release_drops_what_the_owner_alone_may_see(tmp_path):
    internal = event(what="losses", effect="internal", mechanism=None)
    one = event(unit="image", artifact="real-eps6-abcdef12")
    found = ledger(tmp_path, one, internal, claimed="image", most_images=7531).for_release()
    text = to_json(found.to_dict()) + statement(found)
    for word in ("abcdef12", "7531", "losses"):
        assert word not in text


def test_statement_says_what_is_protected(tmp_path):
    test = event(what="metrics", cohort="test", effect="published", mechanism=None)
    text = statement(ledger(tmp_path, event(), test, assumptions=("N is public",)))
    assert "covers membership" in text
    assert "Not protected are the test patients" in text
    assert "N is public" in text
    replaced = event(mechanism=Mechanism(1.0, 9.69, 200, 2.0), adjacency="replace")
    assert "the diagnosis of somebody known to have taken part" in statement(ledger(tmp_path, replaced))


def test_replacement_under_poisson_sampling_is_no_mechanism():
    with pytest.raises(ValueError, match="replacement under Poisson"):
        Mechanism(0.1, 4.0, 100, sensitivity=2.0)


@pytest.mark.parametrize(
    ("epsilon", "mu", "advantage", "guess"),
    [(1, 0.314, 0.125, 0.0027), (6, 1.46, 0.534, 0.052), (12, 2.53, 0.794, 0.288), (20, 3.71, 0.936, 0.733),
     (60, 7.92, 1.0, 1.0)],
)  # fmt: skip
def test_what_an_epsilon_means_for_an_attacker(epsilon, mu, advantage, guess):
    """Full batch, delta 1e-4: the table of docs/mechanism.md, and the rates by numerical integration elsewhere."""
    found = Bound.of_mu(gaussian_mu(epsilon, delta=1e-4), delta=1e-4)
    assert found.epsilon == pytest.approx(epsilon)
    assert found.mu == pytest.approx(mu, abs=0.005)
    assert found.advantage == pytest.approx(advantage, abs=0.0006)
    assert found.guess == pytest.approx(guess, abs=0.0006)


def test_rates_of_poisson_sampling_lie_above_those_of_an_attack(tmp_path):
    """A threshold on the sum of Poisson-sampled steps, simulated, stays below all three rates."""
    mechanism = Mechanism(0.25, 1.2, 30)
    account = ledger(tmp_path, event(mechanism=mechanism)).headline
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 40_000, 30)) * mechanism.noise_multiplier
    there = noise[0] + (rng.random((40_000, 30)) < 0.25)
    log = [np.log(0.75 + 0.25 * np.exp((x - 0.5) / 1.2**2)).sum(axis=1) for x in (there, noise[1])]
    thresholds = np.quantile(log[1], [1 - 0.01, 1 - 0.001])
    assert (log[0] > thresholds[0]).mean() <= account.attack + 0.01
    assert (log[0] > thresholds[1]).mean() <= account.guess + 0.01
    both = np.sort(np.concatenate(log))[::400]
    gaps = [(log[0] > t).mean() - (log[1] > t).mean() for t in both]
    assert 0.7 * account.advantage < max(gaps) <= account.advantage + 0.01
    assert account.mu is None
