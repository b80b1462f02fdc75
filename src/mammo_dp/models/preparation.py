"""What is done to feature vectors before the head: by themselves, or in directions learnt from public images.

Everything here depends on the image and on public data alone, so that no guarantee is touched.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional

from mammo_dp.errors import UserError

PREPARATION = "preparation.safetensors"  # of fit_preparation, and beside the head that was trained behind it
RIDGE = 0.1  # added to the variance of a component, in units of the mean variance of a standardised feature
LEAST_SPREAD = 1e-6  # of a feature over the public images, which is of the order of 1 / sqrt(d)
GRID_BITS = 26  # of what enters the projection


@dataclass(frozen=True)
class Directions:
    """Principal components of a public set, on standardised features.

    mean, spread: (d,) of each feature; components: (d, k) of unit length; scales: (k,) factors of the projections.
    All float64.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    components: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def fit(cls, features: torch.Tensor, *, components: int, whitening: float) -> "Directions":
        """From the (n, flips, d) features of a public set.

        A component's projection is divided by (variance + RIDGE)^(whitening / 2). Order and signs are fixed: by falling
        variance, the largest entry positive. Raises UserError if there are too few images.
        """
        images, _, width = features.shape
        if images <= components or width < components:
            raise UserError(
                f"recipe.components={components} needs more public images than that and as many features; there are "
                f"{images} and {width}: set recipe.components={max(min(images // 2, width), 1)}"
                + ("" if images > components else ", or give more images")
            )
        x = unit_length(features).double().mean(dim=1)
        mean, spread = x.mean(dim=0), x.std(dim=0).clamp(min=LEAST_SPREAD)
        _, singular, rows = np.linalg.svd(((x - mean) / spread).numpy(), full_matrices=False)
        kept = rows[:components]
        largest = kept[np.arange(components), np.abs(kept).argmax(axis=1)]
        variances = singular[:components] ** 2 / (len(x) - 1)
        return cls(
            mean,
            spread,
            torch.from_numpy((kept * np.sign(largest)[:, None]).T.copy()),
            torch.from_numpy((variances + RIDGE) ** (-whitening / 2)),
        )

    @classmethod
    def load(cls, path: Path) -> "Directions":
        """From a file of fit_preparation."""
        return cls(**load_file(path))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., k), both float64 on the CPU.

        Vectors and components are rounded to a grid, so that all sums of the projection are exact: the bits of a row
        do not depend on the rows beside it, which a matrix product does not promise.
        """
        z = functional.normalize((features - self.mean) / self.spread, dim=-1)
        return (z * 2.0**GRID_BITS).round() @ (self.components * 2.0**GRID_BITS).round() * self.scales


@dataclass(frozen=True)
class Preparation:
    """From the features of an image's flips to what the head sees.

    normalize: layer norm without learnt parameters, then length `norm`, of each vector. average: one vector an image,
    the mean over its flips. directions: of a public set, behind both.
    """

    normalize: bool
    norm: float = 1.0
    average: bool = False
    directions: Directions | None = None

    @classmethod
    def of(cls, recipe: Mapping[str, Any], file: Path | None = None) -> "Preparation":
        """From a recipe's record, and the file of `fit_preparation` where it has components."""
        return cls(
            normalize=recipe["normalize_features"],
            norm=recipe.get("feature_norm", 1.0),  # bundles of before there was another
            average=recipe.get("flips") == "mean",
            directions=Directions.load(file) if file is not None else None,
        )

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(..., flips, d) -> (..., flips or 1, d or k) float32. Without `average`, any (..., d) will do."""
        if not self.normalize:
            return features
        prepared = unit_length(features)
        if self.average:
            prepared = prepared.mean(dim=-2, keepdim=True)
        if self.directions is not None:
            prepared = self.directions(prepared.double().cpu())
        if self.average or self.directions is not None:
            prepared = functional.normalize(prepared, dim=-1)
        return (prepared * self.norm).to(features.device, torch.float32)


def record_of(folder: Path) -> dict[str, Any]:
    """{"public": what a trained classifier's preparation says of its images}; empty where it has none."""
    path = folder / PREPARATION
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        return {"public": json.loads(file.metadata()["record"])}


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Layer norm without learnt parameters, then unit L2 norm."""
    return functional.normalize(functional.layer_norm(features, features.shape[-1:]), dim=-1)
