"""The ledger: every touch of private data, composed to one epsilon a cohort and unit, and put into words.

The headline is about what a released model reveals: the worst over the cohorts whose data shaped it. Test, external
and validation images also enter published numbers; that is said, and never counted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, get_args

from mammo_dp.files import Cache
from mammo_dp.privacy.events import COHORTS, Adjacency, Cohort, Event, Unit
from mammo_dp.privacy.gaussian import gaussian_epsilon, gaussian_true_positive_rate

FALSE_POSITIVE_RATE = 0.01  # at which an attacker's true-positive rate is bounded


@dataclass(frozen=True)
class Account:
    """What the model reveals of one cohort, for one unit, from all events together."""

    cohort: Cohort
    study: str
    unit: Unit
    epsilon: float | None  # None: needs the number of images of a patient, which is not known
    delta: float
    attack: float | None  # largest true-positive rate at FALSE_POSITIVE_RATE
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
        found = {(e.study, e.cohort) for e in self.events if e.effect == "shapes_model"}
        return sorted(found, key=lambda pair: (pair[0], COHORTS.index(pair[1])))

    def shaping(self, study: str, cohort: Cohort) -> list[Event]:
        """The events of one cohort that the released model depends on."""
        mine = [e for e in self.events if (e.study, e.cohort) == (study, cohort)]
        return [e for e in mine if e.effect == "shapes_model"]

    def _account(self, study: str, cohort: Cohort, unit: Unit) -> Account:
        events = self.shaping(study, cohort)
        unlimited = tuple(dict.fromkeys(e.what for e in events if e.mechanism is None))
        group = any(e.unit == "image" for e in events) and unit == "patient"
        epsilon: float | None
        if unlimited:
            epsilon, attack = math.inf, 1.0
        elif group and self.most_images is None:
            epsilon, attack = None, None
        else:
            epsilon, attack = self._compose(events, unit)
        images = self.most_images if group and not unlimited else None
        return Account(cohort, study, unit, epsilon, self.delta, attack, images, unlimited)

    def spent(self, event: Event) -> float:
        """Epsilon of one event's mechanism by itself, for the unit that it protects."""
        return self._compose([event], event.unit)[0]

    def _compose(self, events: Sequence[Event], unit: Unit) -> tuple[float, float]:
        mechanisms = [
            (e.mechanism.__dict__, e.unit, e.accountant, e.adjacency) for e in events if e.mechanism
        ]
        libraries = (version("opacus"), version("dp-accounting"))
        key = ("compose", libraries, sorted(mechanisms, key=str), unit, self.delta, self.most_images)
        found = self.cache.get(*key)
        if found is None:
            found = compose(events, unit=unit, delta=self.delta, images=self.most_images or 1)
            self.cache.put(found, *key)
        return tuple(float(value) for value in found)  # type: ignore[return-value]

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
    def breaking(self) -> Event | None:
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


def compose(events: Sequence[Event], *, unit: Unit, delta: float, images: int) -> tuple[float, float]:
    """(epsilon, largest true-positive rate) of events that all have a mechanism, for one `unit`, under `relation`.

    An image-level mechanism counts for a patient with `images` images, as a group. Where a unit is replaced, not
    removed (one image of a patient who stays, or any unit once one event claims replacement), an event that was
    accounted for removal counts twice as far. Full batches compose exactly; Poisson sampling by PLD, a single event by
    the accountant that it names.
    """
    moves = [_moves(e, unit=unit, images=images, replaced=relation(events) == "replace") for e in events]
    mechanisms = [e.mechanism for e in events if e.mechanism is not None]
    if all(m.is_full_batch for m in mechanisms):
        mu = math.hypot(*(far * m.mu / m.sensitivity for far, m in zip(moves, mechanisms, strict=True)))
        epsilon = gaussian_epsilon(mu, delta=delta)
        return epsilon, gaussian_true_positive_rate(mu, false_positive_rate=FALSE_POSITIVE_RATE)
    from mammo_dp.privacy import loss_distribution as losses  # slow to import, and not needed above
    from mammo_dp.privacy.accounting import epsilon as spent

    if any(e.unit == "patient" and unit == "image" for e in events) or relation(events) == "replace":
        if any(far > 2 for far in moves):
            return math.inf, 1.0  # several images at once, replaced, under Poisson sampling: no bound here
        epsilon = losses.replaced_within_unit(mechanisms, delta=delta)
        attack = losses.true_positive_rate_of_claim(
            epsilon, delta=delta, false_positive_rate=FALSE_POSITIVE_RATE
        )
        return epsilon, attack
    loss = losses.composed(
        [(m, round(far / m.sensitivity)) for far, m in zip(moves, mechanisms, strict=True)]
    )
    only = events[0]
    if len(events) == 1 and only.unit == unit:
        epsilon = spent(mechanisms[0], delta=delta, accountant=only.accountant)  # type: ignore[arg-type]
    else:
        epsilon = loss.get_epsilon_for_delta(delta)
    return epsilon, losses.true_positive_rate(loss, false_positive_rate=FALSE_POSITIVE_RATE)


def _moves(event: Event, *, unit: Unit, images: int, replaced: bool) -> float:
    """How far one `unit` moves the clipped sum of the event's mechanism, in multiples of C."""
    vectors = images if (event.unit, unit) == ("image", "patient") else 1
    inside = (event.unit, unit) == ("patient", "image")  # of a patient who stays
    return vectors * (2.0 if replaced or inside else 1.0)
