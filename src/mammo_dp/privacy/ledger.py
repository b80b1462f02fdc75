"""The ledger: every touch of private data, composed to one epsilon a cohort and unit, and put into words.

The headline is about what a released model reveals: the worst over the cohorts whose data shaped it. Test, external
and validation images also enter published numbers; that is said, and never counted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, get_args

from mammo_dp.files import Cache, package_version
from mammo_dp.privacy.events import COHORTS, Adjacency, Cohort, Event, Unit
from mammo_dp.privacy.gaussian import gaussian_advantage, gaussian_epsilon, gaussian_true_positive_rate

FALSE_POSITIVE_RATE = 0.01  # at which an attacker's true-positive rate is bounded
GUESS = 0.001  # chance of a guess, whose success after seeing the model is bounded


class Bound(NamedTuple):
    """What composed mechanisms allow: epsilon, and what it means for an attacker.

    attack: largest true-positive rate at FALSE_POSITIVE_RATE; advantage: largest true-positive less false-positive
    rate; guess: largest success of a guess whose chance is GUESS (Hayes et al. 2023); mu: of Gaussian differential
    privacy, where it holds exactly, at every delta.
    """

    epsilon: float
    attack: float
    advantage: float
    guess: float
    mu: float | None

    @classmethod
    def of_mu(cls, mu: float, *, delta: float) -> "Bound":
        rates = [gaussian_true_positive_rate(mu, false_positive_rate=r) for r in (FALSE_POSITIVE_RATE, GUESS)]
        return cls(gaussian_epsilon(mu, delta=delta), rates[0], gaussian_advantage(mu), rates[1], mu)


NO_BOUND = Bound(math.inf, 1.0, 1.0, 1.0, None)


@dataclass(frozen=True)
class Account:
    """What the model reveals of one cohort, for one unit, from all events together."""

    cohort: Cohort
    study: str
    unit: Unit
    epsilon: float | None  # None: needs the number of images of a patient, which is not known
    delta: float
    attack: float | None  # this and the next three: see Bound
    advantage: float | None
    guess: float | None
    mu: float | None
    images_per_patient: int | None  # of the patient that the number is for, where it matters
    unlimited: tuple[str, ...]  # the events that nothing limits


@dataclass(frozen=True)
class Ledger:
    """Events on private data. `claimed` is the unit of the headline.

    `most_images` is the largest number of training images of a patient; a private number, for the owner's eyes.
    """

    events: tuple[Event, ...]
    claimed: Unit
    delta: float
    cache: Cache
    most_images: int | None = None
    assumptions: tuple[str, ...] = ()

    @cached_property
    def accounts(self) -> tuple[Account, ...]:
        """One for each cohort that shaped the model, and unit; the claimed unit first."""
        units = sorted(get_args(Unit), key=lambda unit: unit != self.claimed)
        return tuple(self._account(study, cohort, unit) for study, cohort in self._shaping for unit in units)

    @property
    def _shaping(self) -> list[tuple[str, Cohort]]:
        found: set[tuple[str, Cohort]] = {
            (e.study, e.cohort) for e in self.events if e.effect == "shapes_model"
        }
        return sorted(found, key=lambda pair: (pair[0], COHORTS.index(pair[1])))

    def shaping(self, study: str, cohort: Cohort) -> list[Event]:
        """The events of one cohort that the released model depends on."""
        mine = [e for e in self.events if (e.study, e.cohort) == (study, cohort)]
        return [e for e in mine if e.effect == "shapes_model"]

    def _account(self, study: str, cohort: Cohort, unit: Unit) -> Account:
        events = self.shaping(study, cohort)
        unlimited = tuple(dict.fromkeys(e.what for e in events if e.mechanism is None))
        group = _needs_images(events, unit)
        found: Bound | None
        if unlimited:
            found = NO_BOUND
        elif group and self.most_images is None:
            found = None
        else:
            found = self._compose(events, unit)
        images = self.most_images if group and not unlimited else None
        means: dict[str, Any] = dict.fromkeys(("attack", "advantage", "guess", "mu"))
        if found is not None:
            means = found._asdict()
        return Account(
            cohort, study, unit, delta=self.delta, images_per_patient=images, unlimited=unlimited,
            **{"epsilon": None, **means},
        )  # fmt: skip

    def spent(self, event: Event) -> float:
        """Epsilon of one event's mechanism by itself, for the unit that it protects."""
        return self._compose([event], event.unit).epsilon

    def _compose(self, events: Sequence[Event], unit: Unit) -> Bound:
        mechanisms = [
            (e.mechanism.__dict__, e.unit, e.accountant, e.adjacency) for e in events if e.mechanism
        ]
        libraries = (package_version("opacus"), package_version("dp-accounting"))
        images = (self.most_images or 1) if _needs_images(events, unit) else 1
        key = ("bound", libraries, sorted(mechanisms, key=str), unit, self.delta, images)
        found = self.cache.get(*key)
        if found is None:
            found = compose(events, unit=unit, delta=self.delta, images=images)
            self.cache.put(found, *key)
        return Bound(*(None if value is None else float(value) for value in found))  # type: ignore[arg-type]

    @property
    def headline(self) -> Account | None:
        """The worst account in the claimed unit, or None where no private data shaped anything."""
        mine = [a for a in self.accounts if a.unit == self.claimed]
        return max(mine, key=lambda a: math.inf if a.epsilon is None else a.epsilon, default=None)

    @property
    def headline_epsilon(self) -> float:
        """Of the headline; infinity where it is not known."""
        if self.headline is None:
            return 0.0
        return math.inf if self.headline.epsilon is None else self.headline.epsilon

    @property
    def dominant_event(self) -> Event | None:
        """The event that decides the headline: one without a limit if there is any, else the first."""
        worst = self.headline
        if worst is None:
            return None
        events = self.shaping(worst.study, worst.cohort)
        return next((e for e in events if e.mechanism is None), events[0])

    def for_release(self) -> "Ledger":
        """The same without what only the owner of the data may see: true sizes, and names of artifacts."""
        events = tuple(replace(event, artifact="") for event in self.events if event.effect != "internal")
        return replace(self, events=events, most_images=None)

    @property
    def published(self) -> list[Event]:
        return [e for e in self.events if e.effect == "published"]

    @property
    def internal(self) -> list[Event]:
        return [e for e in self.events if e.effect == "internal"]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        worst = self.headline
        return {
            "headline": None if worst is None else asdict(worst),
            "accounts": [asdict(account) for account in self.accounts],
            "events": [event.to_dict() for event in self.events],
            "not_protected": [f"{e.cohort} ({e.study}): {e.what}" for e in self.published],
            "must_not_be_released": [f"{e.cohort} ({e.study}): {e.what}" for e in self.internal],
            "assumptions": list(self.assumptions),
        }


def events_of(records: Iterable[Mapping[str, Any]]) -> tuple[Event, ...]:
    """The events of manifests' ledgers, each once."""
    return tuple(dict.fromkeys(Event.from_dict(event) for record in records for event in record["events"]))


def relation(events: Iterable[Event]) -> Adjacency:
    """The neighbouring relation that all events are composed under: the strongest that one of them claims."""
    kinds = {event.adjacency for event in events if event.mechanism is not None}
    return next(kind for kind in ("replace", "zero_out", "add_remove") if kind in kinds)


def _needs_images(events: Iterable[Event], unit: Unit) -> bool:
    """Whether an account depends on how many images a patient has."""
    return unit == "patient" and any(e.unit == "image" for e in events)


def compose(events: Sequence[Event], *, unit: Unit, delta: float, images: int) -> Bound:
    """What events that all have a mechanism reveal together of one `unit`, under `relation`.

    An image-level mechanism counts for a patient with `images` images, as a group. Where a unit is replaced, not
    removed (one image of a patient who stays, or any unit once one event claims replacement), an event that was
    accounted for removal counts twice as far. Full batches compose exactly; Poisson sampling by PLD, a single event by
    the accountant that it names.
    """
    replaced = relation(events) == "replace"
    factors = [_sensitivity_multiplier(e, unit=unit, images=images, replaced=replaced) for e in events]
    mechanisms = [e.mechanism for e in events if e.mechanism is not None]
    if all(m.is_full_batch for m in mechanisms):
        mu = math.hypot(*(k * m.mu / m.sensitivity for k, m in zip(factors, mechanisms, strict=True)))
        return Bound.of_mu(mu, delta=delta)
    from mammo_dp.privacy import loss_distribution as losses  # slow to import, and not needed above
    from mammo_dp.privacy.accounting import epsilon as spent

    rates = (FALSE_POSITIVE_RATE, GUESS)
    if any(e.unit == "patient" and unit == "image" for e in events) or relation(events) == "replace":
        if any(k > 2 for k in factors):
            return NO_BOUND  # several images at once, replaced, under Poisson sampling: no bound here
        epsilon = losses.replaced_within_unit(mechanisms, delta=delta)
        attack, guess = (
            losses.true_positive_rate_of_claim(epsilon, delta=delta, false_positive_rate=r) for r in rates
        )
        return Bound(epsilon, attack, losses.advantage_of_claim(epsilon, delta=delta), guess, None)
    loss = losses.composed([(m, round(k / m.sensitivity)) for k, m in zip(factors, mechanisms, strict=True)])
    only = events[0]
    if len(events) == 1 and only.unit == unit:
        epsilon = spent(mechanisms[0], delta=delta, accountant=only.accountant)  # type: ignore[arg-type]
    else:
        epsilon = loss.get_epsilon_for_delta(delta)
    attack, guess = (losses.true_positive_rate(loss, false_positive_rate=r) for r in rates)
    return Bound(epsilon, attack, min(1.0, float(loss.get_delta_for_epsilon(0.0))), guess, None)


def _sensitivity_multiplier(event: Event, *, unit: Unit, images: int, replaced: bool) -> float:
    """How far one `unit` moves the clipped sum of the event's mechanism, in multiples of C."""
    vectors = images if (event.unit, unit) == ("image", "patient") else 1
    inside = (event.unit, unit) == ("patient", "image")  # of a patient who stays
    return vectors * (2.0 if replaced or inside else 1.0)
