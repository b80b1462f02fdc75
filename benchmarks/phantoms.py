"""Phantom patients for choosing defaults, of another seed than the toy's, and the score of one training run on them."""

from typing import Any

import numpy as np
import torch

from mammo_dp.config import Config
from mammo_dp.data import patches, toy
from mammo_dp.data.images import to_uint8
from mammo_dp.files import Cache
from mammo_dp.metrics.classification import binary_metrics
from mammo_dp.models.head import build_head
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.features import CachedFeatures
from mammo_dp.training.head_trainer import HeadTrainer, predict
from mammo_dp.training.plans import make_plan


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


def auroc(
    config: Config, source: CachedFeatures, labels: np.ndarray, train: int, cache: Cache, seed: int
) -> float:
    """On the positions after the first `train`, of a head trained on those."""
    plan = make_plan(config, units=train, cache=cache)
    trainer = HeadTrainer(
        build_head(config.recipe, features=source.table.shape[-1], seed=seed), source, Units.of_each(range(train)),
        torch.from_numpy(labels), plan=plan, recipe=config.recipe,
        randomness=Randomness(secure=False, seed=seed, run="choice"), device=torch.device("cpu"),
    )  # fmt: skip
    for _ in range(plan.steps):
        trainer.step()
    trainer.head.load_state_dict(trainer.selection.selected()[0])
    p_malignant = predict(trainer.head, source, np.arange(train, len(labels)), test_flips=True)
    return binary_metrics(labels[train:], p_malignant)["auroc"]
