"""Networks that only measure images: Inception (torch-fidelity's, the usual one of FID) and RadImageNet's ResNet-50."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from mammo_dp.errors import UserError
from mammo_dp.models.classifier import fit_weights, read_weights
from mammo_dp.models.download import check_reachable

RADIMAGENET = "resnet50"
RADIMAGENET_SOURCE = "https://github.com/BMEII-AI/RadImageNet"  # "RadImageNet models", Pytorch, ResNet50.pt
# its backbone is a Sequential of torchvision's children: conv1, bn1, relu, maxpool, layer1 to layer4
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def build_inception(
    weights: str, device: torch.device | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """(n, 3, h, w) uint8 -> (n, 2048) pooled features of the Inception-v3 that FID is defined by.

    weights: "download" or a file. Raises UserError, with the file to fetch, if they are neither here nor to be had.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    path = _downloaded(URL_INCEPTION_V3) if weights == "download" else Path(weights)
    advice = f"fetch {URL_INCEPTION_V3} and set evaluation.inception_weights=FILE"
    if not path.is_file():
        raise UserError(f"the space inception is left out: {weights} is not a file; {advice}")
    try:
        torch.load(
            path, map_location="cpu", weights_only=True
        )  # the library's own load would run code in the file
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:  # torch.load raises errors of many kinds for bytes that are no state dict
        raise UserError(
            f"the space inception is left out: its weights cannot be used ({type(error).__name__}); {advice}"
        ) from None
    network.to(device)
    return lambda images: network(images.to(device))[0].cpu()


def _downloaded(url: str) -> Path:
    """torch.hub's copy of a file, fetched if it is not there yet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    if path.is_file():
        return path
    try:
        check_reachable(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.split("-")[-1], progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the space inception is left out: its weights could not be downloaded ({type(error).__name__}); with a "
            f"network run again with force=true, or fetch {url} and set evaluation.inception_weights=FILE"
        ) from None
    return path


def build_radimagenet(weights: str | None) -> nn.Module:
    """ResNet-50 trained on RadImageNet, frozen: (n, 3, 224, 224) inputs scaled to [-1, 1] -> (n, 2048) features.

    weights: a file in RadImageNet's own layout for PyTorch or in torchvision's. Raises UserError, with the file to
    fetch.
    """
    advice = f"fetch ResNet50.pt from {RADIMAGENET_SOURCE} (PyTorch models) and set evaluation.radimagenet_weights=FILE"
    if weights is None or not Path(weights).is_file():
        raise UserError(f"the space radimagenet is left out: its weights are not here; {advice}")
    try:
        stored = {_renamed(key): tensor for key, tensor in read_weights(Path(weights)).items()}
        backbone = timm.create_model(RADIMAGENET, pretrained=False, num_classes=0)
        fit_weights(backbone, stored, name=RADIMAGENET)
    except UserError as error:
        raise UserError(f"the space radimagenet is left out: {error}; {advice}") from None
    return backbone.eval().requires_grad_(False)


def _renamed(key: str) -> str:
    found = re.fullmatch(r"(?:module\.)?backbone\.(\d)\.(.+)", key)
    return f"{CHILDREN.get(found[1], found[1])}.{found[2]}" if found else key
