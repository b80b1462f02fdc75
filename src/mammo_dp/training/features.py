"""Features of the frozen backbone: computed once for all flips and cached, or computed at every step."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from timm.layers.drop import DropPath
from torch import nn
from torch.nn import functional

from mammo_dp.config.schema import Classifier
from mammo_dp.data.transforms import FLIPS, flip, to_inputs
from mammo_dp.errors import UserError

FEATURES = "features.safetensors"  # of extract_features: (n, FLIPS, d) "features", and with norm_head:
SCALE, SHIFT = "last_norm.scale", "last_norm.shift"


@dataclass(frozen=True)
class Preparation:
    """What is done to each feature vector by itself before the head, at no cost of privacy.

    normalize: layer norm without learnt parameters, then unit length.
    """

    normalize: bool

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> "Preparation":
        """From a recipe's record."""
        return cls(normalize=recipe["normalize_features"])

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., d)."""
        if not self.normalize:
            return features
        return functional.normalize(functional.layer_norm(features, features.shape[-1:]), dim=-1)


class FeatureSource(Protocol):
    """Feature vectors by position in the patch set and by flip.

    `fixed`: the same request gives the same tensor and costs no forward pass, so that it may be kept.
    `layers_rng`: where stochastic depth draws from, if there is any.
    """

    fixed: bool
    layers_rng: torch.Generator | None

    def rows(self, positions: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
        """(k,) positions and (k, r) flips, each 0 to FLIPS - 1 -> (k, r, d) features."""
        ...


class CachedFeatures:
    """A (n, FLIPS, d) table, on the device."""

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
            return torch.zeros(0, flips.shape[1], width)
        return self.prepare(torch.cat(chunks))


def inputs_of(images: np.ndarray, settings: Classifier) -> torch.Tensor:
    """(n, h, w) uint8 -> the backbone's (n, 3, s, s) inputs."""
    return to_inputs(images, size=settings.input_size, mean=settings.mean, std=settings.std)


@contextlib.contextmanager
def seeded_layers(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Inside, layers that draw for themselves (stochastic depth, dropout) do so from a seed that `generator` gives."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def with_stochastic_depth(backbone: nn.Module) -> nn.Module:
    """The frozen backbone with its stochastic depth and dropout on, each image by itself; all else stays in eval mode.

    Raises UserError if it has none.
    """
    random = [
        module for module in backbone.modules()
        if (isinstance(module, DropPath) and module.drop_prob) or (isinstance(module, nn.Dropout) and module.p)
    ]  # fmt: skip
    if not random:
        raise UserError(
            "classifier.backbone_mode=train turns on stochastic depth, and this backbone has none; set "
            "classifier.backbone_args.drop_path_rate=0.2, or classifier.backbone_mode=eval"
        )
    for module in random:
        module.train()
    return backbone


def encoder(
    backbone: nn.Module, device: torch.device, *, precision: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from (n, 3, s, s) inputs to (n, d) float32 features on the device.

    Raises ValueError for a backbone in train mode: batch statistics would mix one patient's image into the features
    of others, and no clipping would bound it. Stochastic depth, which treats each image by itself, may be on.
    """
    if any(
        module.training and not isinstance(module, (DropPath, nn.Dropout)) for module in backbone.modules()
    ):
        raise ValueError(
            "the frozen backbone is in train mode; features of a batch would depend on each other"
        )
    backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast for convolutions on a CPU

    @torch.inference_mode()
    def encode(inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return backbone(inputs.to(device, memory_format=torch.channels_last)).float()

    return encode


def all_flips(
    images: np.ndarray, encode: Callable[[torch.Tensor], torch.Tensor], settings: Classifier
) -> torch.Tensor:
    """(n, h, w) uint8 -> (n, FLIPS, d) features on the CPU."""
    inputs = inputs_of(images, settings)
    return torch.stack([encode(flip(inputs, variant)).cpu() for variant in range(FLIPS)], dim=1)
