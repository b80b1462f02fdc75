"""Feature spaces that images are compared in: a network's features, or radiomics. Features are kept between runs."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save
from torch import nn

from mammo_dp.config import Config
from mammo_dp.config.schema import Classifier
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact
from mammo_dp.engine.progress import track
from mammo_dp.errors import UserError
from mammo_dp.files import Cache, file_identity, package_version, to_json, write_atomic
from mammo_dp.metrics import radiomics
from mammo_dp.models import download
from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.features import all_flips, encoder, inputs_of
from mammo_dp.models.weights import fit_weights, read_weights

VERSION = 1  # raised when the code measures otherwise
Measure = Callable[[np.ndarray], torch.Tensor]  # (n, size, size) uint8 -> (n, flips or 1, d)


@dataclass(frozen=True)
class FeatureSpace:
    """`identity`: everything that its numbers depend on but the images. `flips`: whether all of them are measured."""

    name: str
    identity: str
    measure: Measure
    flips: bool

    def features(self, patches: PatchSet, cache: Cache) -> torch.Tensor:
        """(n, 4 flips or 1, d) of all patches, computed once for each artifact that they lie in."""
        artifacts = {id(artifact): artifact for artifact in patches.artifacts}
        owner = np.array([id(artifact) for artifact in patches.artifacts])
        parts = {
            key: self._of_artifact(a, patches.images[owner == key], cache) for key, a in artifacts.items()
        }
        first = next(iter(parts.values()))
        table = torch.empty(len(owner), *first.shape[1:], dtype=first.dtype)
        for key, part in parts.items():
            table[torch.from_numpy(owner == key)] = part
        return table

    def _of_artifact(self, artifact: Artifact, images: np.ndarray, cache: Cache) -> torch.Tensor:
        libraries = [package_version(name) for name in ("torch", "timm", "torch-fidelity")]
        identity = {"space": self.name, "identity": self.identity, "flips": self.flips}
        key = to_json(identity | {"of": artifact.content_digest, "version": VERSION, "libraries": libraries})
        path = cache.folder / f"features-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        if not path.is_file():
            cache.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({"features": self.measure(images).contiguous()}))
        return load_file(path)["features"]


def open_space(name: str, config: Config, device: torch.device, cache: Cache) -> FeatureSpace:
    """A space by its name. Raises UserError, with what to fetch and where to put it, if it cannot be used here."""
    return _OPEN[name](config, device, cache)


def _backbone(config: Config, device: torch.device, cache: Cache) -> FeatureSpace:
    settings = config.classifier.model_copy(
        update={"features": "last"}
    )  # distances are the same whatever head trains
    encode = encoder(build_backbone(settings), device, precision=config.runtime.precision)
    weights = settings.weights
    if settings.weights_file is not None:
        weights = file_identity(settings.weights_file, cache)
    identity = to_json(
        settings.backbone_settings
        | {"weights": weights, "init_seed": settings.init_seed, "precision": config.runtime.precision}
    )

    def measure(images: np.ndarray) -> torch.Tensor:
        return _in_chunks(images, lambda part: all_flips(part, encode, settings), config, settings.backbone)

    return FeatureSpace("backbone", identity, measure, flips=True)


def _radimagenet(config: Config, device: torch.device, cache: Cache) -> FeatureSpace:
    weights = config.evaluation.radimagenet_weights
    encode = encoder(build_radimagenet(weights), device, precision="float32")
    # inputs scaled to [-1, 1], as its authors do
    settings = Classifier(
        backbone=RADIMAGENET, backbone_args={}, weights="none", init_seed=0, input_size=224, mean=0.5, std=0.5,
        trainable="head", backbone_mode="eval", features="last", cache_features=False,
    )  # fmt: skip

    def measure(images: np.ndarray) -> torch.Tensor:
        return _in_chunks(
            images, lambda p: encode(inputs_of(p, settings)).cpu()[:, None], config, "radimagenet"
        )

    return FeatureSpace("radimagenet", file_identity(Path(str(weights)), cache), measure, flips=False)


def _inception(config: Config, device: torch.device, cache: Cache) -> FeatureSpace:
    weights = config.evaluation.inception_weights
    network = build_inception(weights, device)

    def of(part: np.ndarray) -> torch.Tensor:
        grey = torch.from_numpy(part)[:, None].expand(-1, 3, -1, -1)
        with torch.inference_mode():
            return network(grey.contiguous()).float()[:, None]

    identity = weights if weights == "download" else file_identity(Path(str(weights)), cache)
    return FeatureSpace(
        "inception", identity, lambda images: _in_chunks(images, of, config, "inception"), flips=False
    )


def _radiomics(config: Config, device: torch.device, cache: Cache) -> FeatureSpace:
    def measure(images: np.ndarray) -> torch.Tensor:
        # float64: some features span ten orders of magnitude
        found = radiomics.radiomics_features(images, workers=config.runtime.workers)
        return torch.from_numpy(found)[:, None]

    radiomics.check_installed()
    return FeatureSpace("radiomics", str(radiomics.installed()), measure, flips=False)


_OPEN = {
    "backbone": _backbone,
    "inception": _inception,
    "radimagenet": _radimagenet,
    "radiomics": _radiomics,
}


def _in_chunks(
    images: np.ndarray, of: Callable[[np.ndarray], torch.Tensor], config: Config, name: str
) -> torch.Tensor:
    size = config.runtime.batch_size
    starts = range(0, len(images), size)
    return torch.cat([of(images[start : start + size]) for start in track(starts, f"features of {name}")])


# --- networks that only measure: torch-fidelity's Inception, RadImageNet's ResNet-50 --------------------------------

RADIMAGENET = "resnet50"
RADIMAGENET_SETTING = "evaluation.radimagenet_weights"
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

    advice = f"fetch {URL_INCEPTION_V3} and set evaluation.inception_weights=FILE"
    path = Path(weights)
    if weights == "download":
        what = "the space inception is left out: its weights"
        path = download.from_url(
            URL_INCEPTION_V3,
            what=what,
            setting="evaluation.inception_weights=FILE",
            again="run again with force=true",
        )
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


def build_radimagenet(weights: str | None) -> nn.Module:
    """ResNet-50 trained on RadImageNet, frozen: (n, 3, 224, 224) inputs scaled to [-1, 1] -> (n, 2048) features.

    weights: a file in RadImageNet's own layout for PyTorch or in torchvision's. Raises UserError, with the file to
    fetch.
    """
    advice = f"fetch ResNet50.pt from {RADIMAGENET_SOURCE} (PyTorch models) and set evaluation.radimagenet_weights=FILE"
    if weights is None or not Path(weights).is_file():
        raise UserError(f"the space radimagenet is left out: its weights are not here; {advice}")
    try:
        stored = {
            _renamed(key): tensor
            for key, tensor in read_weights(Path(weights), setting=RADIMAGENET_SETTING).items()
        }
        backbone = timm.create_model(RADIMAGENET, pretrained=False, num_classes=0)
        fit_weights(backbone, stored, name=RADIMAGENET, setting=RADIMAGENET_SETTING)
    except UserError as error:
        raise UserError(f"the space radimagenet is left out: {error}; {advice}") from None
    return backbone.eval().requires_grad_(False)


def _renamed(key: str) -> str:
    found = re.fullmatch(r"(\d)\.(.+)", key)
    return f"{CHILDREN.get(found[1], found[1])}.{found[2]}" if found else key
