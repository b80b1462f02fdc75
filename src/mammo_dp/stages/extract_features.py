"""`stage=extract_features`: patches -> features of the frozen backbone for all four flips, once."""

from collections.abc import Mapping

import torch
from safetensors.torch import save_file

from mammo_dp.artifacts import Artifact, Output, StageResult
from mammo_dp.config import Config
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.errors import UserError
from mammo_dp.models.classifier import build_body
from mammo_dp.progress import track
from mammo_dp.training import device as devices
from mammo_dp.training.features import all_flips, encoder

FEATURES = "features.safetensors"


def check(config: Config) -> None:
    """Refuse weights that do not fit and a device that is not there."""
    body = build_body(config.classifier)
    devices.prepare(config.runtime)
    size = config.classifier.input_size
    try:
        body(torch.zeros(1, 3, size, size))
    except Exception as error:  # each model refuses a wrong size in its own way
        raise UserError(
            f"{config.classifier.backbone} does not take classifier.input_size={size} ({error}); "
            "change it, or the model's own size in classifier.backbone_args"
        ) from None


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    """Write features.safetensors: "features", (n, 4, d) float32, in the order of the patches' index."""
    device = devices.prepare(config.runtime)
    images = PatchSet.load(inputs["patches"]).images
    encode = encoder(build_body(config.classifier), device, precision=config.runtime.precision)
    size = config.runtime.batch_size
    starts = range(0, len(images), size)
    chunks = [
        all_flips(images[start : start + size], encode, config.classifier)
        for start in track(starts, "features", total=len(starts))
    ]
    features = torch.cat(chunks)
    save_file({"features": features}, output.folder / FEATURES)
    shape = {"patches": features.shape[0], "flips": features.shape[1], "features": features.shape[2]}
    return StageResult(
        metrics=shape,
        summary=f"{features.shape[0]} patches x {features.shape[1]} flips x {features.shape[2]} features",
        manifest={"device": devices.describe(device)},
    )
