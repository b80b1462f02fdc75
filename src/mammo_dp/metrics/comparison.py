"""Compare sets of images by their features: over random parts, no patient in two of them, pooled and per class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mammo_dp.engine.progress import track
from mammo_dp.metrics.frechet import NEIGHBOURS, frechet_distance, kernel_distance, precision_recall
from mammo_dp.metrics.radiomics import radiomics_distance
from mammo_dp.metrics.subsets import patient_parts

CLASSES = {"all": None, "benign": 0, "malignant": 1}


@dataclass(frozen=True)
class ImageSet:
    """Positions (n,) of a set's images in the table of features, their classes and patients."""

    positions: np.ndarray
    malignant: np.ndarray
    patients: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """One number for one pair of sets: its values over the pairs of parts, and how many images stood behind each.

    `values` is empty where a part has too few images.
    """

    first: str
    second: str
    label: str  # all, benign, malignant
    space: str
    metric: str
    values: tuple[float, ...]
    n_first: int  # the smallest part's
    n_second: int
    features: int

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.values)) if self.values else None

    @property
    def std(self) -> float | None:
        """Of the population, as the paper's."""
        return float(np.std(self.values)) if self.values else None

    @property
    def warning(self) -> str:
        """Fewer images than features: the covariance is singular, and the distance depends on how many there are."""
        fewest = min(self.n_first, self.n_second)
        if self.metric in ("fid", "frd") and fewest <= self.features:
            return f"{fewest} images for {self.features} features: compare only with distances of the same N"
        return ""


def _network_metrics(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    found = {"fid": frechet_distance(a, b), "kid": kernel_distance(a, b)}
    if min(len(a), len(b)) > NEIGHBOURS:
        precision, recall = precision_recall(a, b)
        found |= {"precision": precision, "recall": recall}
    return found


def _radiomics_metrics(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    return {"frd": radiomics_distance(a, b)}


def compare(
    sets: Mapping[str, ImageSet],
    pairs: Sequence[tuple[str, str]],
    features: np.ndarray,
    *,
    space: str,
    parts: int,
    seed: int,
) -> list[Comparison]:
    """features: (n, d) of all images. Distances of `pairs` of sets between their random parts.

    Two different sets are compared part by part; a set with itself, each part with each other. So real against real is
    the floor that real against synthetic is read by, at the same number of images.
    """
    measure = _radiomics_metrics if space == "radiomics" else _network_metrics
    split = {name: patient_parts(s.patients, parts=parts, seed=seed) for name, s in sets.items()}
    found = []
    for first, second in track(pairs, f"distances in {space}"):
        chosen = list(combinations(range(parts), 2)) if first == second else [(k, k) for k in range(parts)]
        for label, value in CLASSES.items():

            def part(name: str, number: int, value: int | None = value) -> np.ndarray:
                return _features(sets[name], split[name][number], value, features)

            sides = [(part(first, i), part(second, j)) for i, j in chosen]
            found += _summarised(sides, measure, first=first, second=second, label=label, space=space)
    return found


def _features(of: ImageSet, part: np.ndarray, value: int | None, features: np.ndarray) -> np.ndarray:
    kept = part if value is None else part[of.malignant[part] == value]
    return features[of.positions[kept]]


def _summarised(
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    measure: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    *,
    first: str,
    second: str,
    label: str,
    space: str,
) -> list[Comparison]:
    smallest = [min(len(side[k]) for side in sides) for k in (0, 1)]
    rows = [measure(a, b) for a, b in sides] if min(smallest) >= 2 else []
    names = list(dict.fromkeys(name for row in rows for name in row)) or [
        "frd" if space == "radiomics" else "fid"
    ]
    return [
        Comparison(
            first, second, label, space, name, tuple(row[name] for row in rows if name in row), *smallest,
            features=sides[0][0].shape[1],
        )
        for name in names
    ]  # fmt: skip
