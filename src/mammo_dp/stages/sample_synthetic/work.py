"""`stage=sample_synthetic`: synthetic masses as an artifact in the form of a patch set, split `synthetic`.

They are drawn from a generator of `stage=train_gan`, or read from a folder that somebody else has published.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mammo_dp.config import Config
from mammo_dp.data import synthetic
from mammo_dp.data.images import read_image, why_unreadable
from mammo_dp.data.patch_set import INDEX, INDEX_COLUMNS, encoded, index_row, patch_name, write_png
from mammo_dp.data.patches import Box, whole
from mammo_dp.data.records import Lesion, WholeImage
from mammo_dp.data.sources import synthetic_folder
from mammo_dp.data.transforms import resized
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.engine.progress import track
from mammo_dp.errors import UserError
from mammo_dp.files import sha256
from mammo_dp.metrics.image_faults import wrapped_pixels
from mammo_dp.models.mcgan import CLASSES, sample
from mammo_dp.models.published_generator import read_published_generator
from mammo_dp.privacy.sampling import seeded_generator
from mammo_dp.stages.train_gan.work import load_generator
from mammo_dp.training import device as devices

BLOCK = 64  # samples at a time; whole blocks are drawn, so that what is asked for does not change what comes first
Made = tuple[Lesion, np.ndarray, Box, str]  # record, patch, box in its source, SHA-256 of its source


def check(config: Config) -> None:
    """Refuse a folder with too few images of a class, and a device that is not there."""
    if config.synthetic.name == "release":
        synthetic.read(synthetic_folder(config), per_class=config.synthetic.per_class)
        return
    devices.prepare(config.runtime)
    if config.synthetic.name == "authors_generator":
        read_published_generator(config)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    given = config.synthetic.name == "release"
    made = _published(config) if given else _drawn(config, inputs)
    place = {"source": synthetic.SOURCE, "split": synthetic.SOURCE}
    index, wrapped = [], 0
    for number, (lesion, patch, box, origin) in enumerate(
        track(made, "synthetic images", total=config.synthetic.count)
    ):
        name = patch_name(number, malignant=lesion.malignant, **place)
        write_png(output.folder / name, encoded(patch))
        index.append(index_row(name, lesion, box, origin, **place))
        wrapped += bool(wrapped_pixels(patch[None])[0])
    pd.DataFrame(index, columns=pd.Index(INDEX_COLUMNS)).to_csv(output.folder / INDEX, index=False)
    count = config.synthetic.per_class
    return StageResult(
        metrics={"benign": count, "malignant": count, "with_wrapped_pixels": wrapped},
        summary=f"{len(index)} synthetic patches ({count} of each class), {wrapped} with wrapped pixels (speckle)",
    )


def _published(config: Config) -> Iterator[Made]:
    """The first images of a folder, by class. Raises UserError for one that cannot be read."""
    for lesion in synthetic.read(synthetic_folder(config), per_class=config.synthetic.per_class):
        try:
            image = read_image(lesion.image_path)
            patch, box = whole(image.eight_bit(image.stored), config.patches.size)
        except (ValueError, OSError) as error:
            raise UserError(
                f"synthetic image {lesion.row} cannot be used ({why_unreadable(error)}); fetch it again, or take it "
                "out and lower synthetic.per_class"
            ) from None
        yield lesion, patch, box, image.sha256


def _drawn(config: Config, inputs: Mapping[str, Artifact]) -> Iterator[Made]:
    """Samples of a generator, benign first. Each class has its own stream: more images only add to the first ones."""
    settings, device, size = config.synthetic, devices.prepare(config.runtime), config.patches.size
    gan = config.gan
    if "generator" in inputs:
        generator, origin = load_generator(inputs["generator"], config, epoch=settings.epoch)
    else:
        generator, gan = read_published_generator(config)
        origin = sha256(Path(str(settings.file)))
    generator.to(device)
    for label in range(CLASSES):
        rng = seeded_generator(settings.seed, f"class {label}", "latents")
        for first in range(0, settings.per_class, BLOCK):
            latents = torch.randn(BLOCK, gan.latent_dim, generator=rng).to(device)
            labels = torch.full((BLOCK,), label, device=device)
            samples = sample(generator, latents, labels, gan, batch_size=BLOCK)
            patches = resized(samples.numpy(), size)
            for number, patch in enumerate(patches[: settings.per_class - first], first):
                yield _record(settings.name, number, label), patch, Box(0, 0, size, size), origin


def _record(generator: str, number: int, label: int) -> Lesion:
    """A sample is a patient of its own: it belongs to no real patient."""
    pathology = ("benign", "malignant")[label]
    name = f"{generator}_{pathology}_{number:05d}"
    return Lesion(
        row=name, image_path=Path(), region=WholeImage(), patient=name, image=name, malignant=label == 1,
        pathology=pathology,
    )  # fmt: skip
