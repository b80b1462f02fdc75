"""What is done to private data: the mechanism that limits what it reveals, or none. Plain records, quick to import."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Unit = Literal["image", "patient"]
Adjacency = Literal["add_remove", "zero_out", "replace"]
Cohort = Literal["training", "validation", "test", "external"]
COHORTS: tuple[Cohort, ...] = ("training", "validation", "test", "external")

# shapes_model: the released model depends on it; it counts for the headline.
# published: it enters published metrics, intervals and predictions, not the model.
# internal: kept in outputs/ for the owner of the data, must not be released, and is never exported.
Effect = Literal["shapes_model", "published", "internal"]


@dataclass(frozen=True)
class Mechanism:
    """`steps` Gaussian mechanisms, each on a Poisson sample of rate `sample_rate` (1: on everything).

    `noise_multiplier` is the standard deviation of the noise over the clipping norm C. `sensitivity` is how far one
    unit moves the clipped sum, in multiples of C: 1 if it is added or removed, 2 if it is replaced.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        if self.sensitivity != 1 and not self.is_full_batch:
            raise ValueError("no accountant here covers replacement under Poisson sampling; use full batches")

    @property
    def is_full_batch(self) -> bool:
        return self.sample_rate == 1.0

    @property
    def mu(self) -> float:
        """Of the Gaussian differential privacy of full batches: sensitivity * sqrt(steps) / sigma."""
        if not self.is_full_batch:
            raise ValueError("Gaussian differential privacy is exact for full batches only")
        return self.sensitivity * math.sqrt(self.steps) / self.noise_multiplier

    def accountant(self, wanted: str) -> str:
        """What accounts for it: the exact Gaussian formula wherever it holds, else the wanted accountant."""
        return "gaussian" if self.is_full_batch else wanted


SENSITIVITY: dict[Adjacency, float] = {
    "add_remove": 1.0,
    "zero_out": 1.0,
    "replace": 2.0,
}  # in multiples of C


@dataclass(frozen=True)
class Event:
    """One touch of private data by one stage.

    Without a `mechanism` nothing limits what it reveals. `study` names the patients: the data set and its split.
    `artifact` tells the runs apart, so that several seeds count several times.
    """

    what: str
    stage: str
    cohort: Cohort
    study: str
    effect: Effect
    why: str  # one clause for the statement
    mechanism: Mechanism | None = None
    unit: Unit = "image"  # what the mechanism protects
    adjacency: Adjacency = "add_remove"
    accountant: str = "prv"
    artifact: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON. An event without a mechanism carries no unit, adjacency or accountant."""
        record = asdict(self)
        dropped = [] if self.mechanism else ["mechanism", "unit", "adjacency", "accountant"]
        return {key: value for key, value in record.items() if key not in dropped and value != ""}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Event":
        mechanism = record.get("mechanism")
        return cls(**{**record, "mechanism": Mechanism(**mechanism) if mechanism else None})
