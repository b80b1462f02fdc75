"""`stage=extract_features`: patches -> features of the frozen backbone for all four flips, once."""

from collections.abc import Mapping

import torch
from safetensors.torch import load_file, save_file

from mammo_dp.config import Config
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.engine.progress import track
from mammo_dp.models.backbone import build_backbone, take_norm
from mammo_dp.models.bundle import BACKBONE
from mammo_dp.models.features import all_flips, check_backbone, encoder
from mammo_dp.training import device as devices
from mammo_dp.training.features import FEATURES, SCALE, SHIFT


def check(config: Config) -> None:
    """Refuse weights that do not fit, a backbone that cannot be used as asked, and a device that is not there."""
    devices.prepare(config.runtime)
    check_backbone(config.classifier.model_copy(update={"backbone_mode": "eval"}))
    if not config.experiment.continues_synpre:  # whose backbone is an artifact, perhaps still to be made
        build_backbone(config.classifier)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    """Write features.safetensors: "features", (n, 4, d) float32, in the order of the patches' index.

    For norm_head they are those before the last scale and shift, which stand beside them.
    """
    device = devices.prepare(config.runtime)
    images = PatchSet.load(inputs["patches"]).images
    backbone = build_backbone(
        config.classifier, load_file(inputs["backbone"].path(BACKBONE)) if "backbone" in inputs else None
    )
    last = {}
    if config.classifier.trainable == "norm_head":
        affine = take_norm(backbone, config.classifier).state_dict()
        last = {SCALE: affine["weight"], SHIFT: affine["bias"]}
    encode = encoder(backbone, device, precision=config.runtime.precision)
    size = config.runtime.batch_size
    starts = range(0, len(images), size)
    chunks = [
        all_flips(images[start : start + size], encode, config.classifier)
        for start in track(starts, "features", total=len(starts))
    ]
    features = torch.cat(chunks)
    save_file({"features": features, **last}, output.folder / FEATURES)
    shape = {"patches": features.shape[0], "flips": features.shape[1], "features": features.shape[2]}
    return StageResult(
        metrics=shape,
        summary=f"{features.shape[0]} patches x {features.shape[1]} flips x {features.shape[2]} features",
        manifest={"device": devices.describe(device)},
    )
