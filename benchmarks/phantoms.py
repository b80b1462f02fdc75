"""Phantom patients for choosing defaults: patches and labels, as many as asked for, of another seed than the toy's."""

from typing import Any

import numpy as np

from mammo_dp.data import patches, toy
from mammo_dp.data.images import to_uint8


def cohort(settings: Any, index: int, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches (n, 128, 128) and labels (n,) of generated patients, cut as extract_patches cuts them."""
    geometry = settings.patches
    images, labels = [], []
    for number in range(patients):
        rng = np.random.default_rng([1, index, number])
        every = settings.dataset.toy.second_mass_every
        study = toy.draw_study(rng, number, settings.dataset.toy, second_mass=number % every == 0)
        for view in study.views:
            image = to_uint8(np.rint(view.pixels * 60_000).astype(np.uint16))
            for mass, centre in view.masses:
                outline = toy.outline(mass, centre)
                box, _ = patches.region_of_outline(outline, shape=image.shape, must_fit=False)
                square = patches.window(
                    box, shape=image.shape, margin=geometry.margin, min_side=geometry.min_side
                )
                images.append(patches.resize(patches.cut(image, square), geometry.size))
                labels.append(mass.malignant)
    return np.stack(images), np.array(labels, dtype=np.int64)
