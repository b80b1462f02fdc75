"""Features of the frozen backbone: computed once for all flips and cached, or computed at every step."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from mammo_dp.config.schema import Classifier
from mammo_dp.data.transforms import FLIPS, flip
from mammo_dp.models.features import inputs_of, seeded_layers
from mammo_dp.models.preparation import Preparation

FEATURES = "features.safetensors"  # of extract_features: (n, FLIPS, d) "features", and with norm_head:
SCALE, SHIFT = "last_norm.scale", "last_norm.shift"


class FeatureSource(Protocol):
    """Feature vectors by position in the patch set and by flip; one an image where its flips are averaged.

    `fixed`: the same request gives the same tensor and costs no forward pass, so that it may be kept.
    `layers_rng`: where stochastic depth draws from, if there is any.
    """

    fixed: bool
    layers_rng: torch.Generator | None

    def rows(self, positions: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        """(k,) positions and (k, r) flips, each 0 to FLIPS - 1 -> (k, r, d) features."""
        ...


class CachedFeatures:
    """A (n, FLIPS, d) table, on the device, prepared at once."""

    fixed = True
    layers_rng: torch.Generator | None = None

    def __init__(self, table: torch.Tensor, *, prepare: Preparation) -> None:
        self.table = prepare(table)

    def rows(self, positions: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        device = self.table.device
        return self.table[positions.to(device)[:, None], flips.to(device)]


class ImageFeatures:
    """The backbone on flipped images, again at every request. images: (n, h, w) uint8."""

    fixed = False

    def __init__(
        self,
        images: np.ndarray,
        encode: Callable[[torch.Tensor], torch.Tensor],
        settings: Classifier,
        *,
        prepare: Preparation,
        batch_size: int,
        layers_rng: torch.Generator | None = None,
    ) -> None:
        self.images, self.encode, self.settings = images, encode, settings
        self.prepare, self.batch_size, self.layers_rng = prepare, batch_size, layers_rng

    def rows(self, positions: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        if self.prepare.average:
            flips = torch.arange(FLIPS).expand(len(positions), -1)
        chunks = []
        for start in range(0, len(positions), self.batch_size):
            part = slice(start, start + self.batch_size)
            inputs = inputs_of(self.images[positions[part].numpy()], self.settings)
            columns = []
            for column in flips[part].T:
                flipped = torch.stack([flip(x, int(v)) for x, v in zip(inputs, column, strict=True)])
                with seeded_layers(self.layers_rng, flipped.device):
                    columns.append(self.encode(flipped))
            chunks.append(torch.stack(columns, dim=1))
        if not chunks:  # an empty Poisson batch is still a step
            width = self.encode(inputs_of(self.images[:1], self.settings)).shape[1]
            return self.prepare(torch.zeros(0, flips.shape[1], width))
        return self.prepare(torch.cat(chunks))
