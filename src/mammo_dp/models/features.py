"""From images and a frozen backbone to features: inputs, stochastic depth, the forward pass, all four flips."""

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from timm.layers.drop import DropPath
from torch import nn

from mammo_dp.config.schema import Classifier
from mammo_dp.data.transforms import FLIPS, flip, to_inputs
from mammo_dp.errors import UserError
from mammo_dp.models.backbone import build_backbone, take_norm


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


def check_backbone(settings: Classifier) -> None:
    """Raise UserError if it does not take its inputs, or cannot train or draw what `settings` ask for.

    By its architecture alone, with random weights: those of synpre may still be to come.
    """
    _check(json.dumps(settings.model_copy(update={"weights": "none"}).model_dump()))


@cache  # a sweep asks for the same one many times
def _check(settings_json: str) -> None:
    settings = Classifier(**json.loads(settings_json))
    backbone, size = build_backbone(settings), settings.input_size
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, size, size))
    except Exception as error:  # each model refuses a wrong size in its own way
        raise UserError(
            f"{settings.backbone} does not take classifier.input_size={size} ({error}); "
            "change it, or the model's own size in classifier.backbone_args"
        ) from None
    if settings.trainable == "norm_head":
        take_norm(backbone, settings)
    if settings.backbone_mode == "train":
        with_stochastic_depth(backbone)
