"""What a run trains, and how its patches are scored: a head on a frozen backbone, or backbone and head together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from mammo_dp.config import Config
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact
from mammo_dp.layers import Affine
from mammo_dp.models.backbone import build_backbone, feature_size, take_norm
from mammo_dp.models.bundle import BACKBONE, HEAD
from mammo_dp.models.features import encoder, with_stochastic_depth
from mammo_dp.models.head import build_head
from mammo_dp.models.preparation import PREPARATION, Preparation
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.features import FEATURES, SCALE, SHIFT, CachedFeatures, FeatureSource, ImageFeatures
from mammo_dp.training.head_trainer import HeadTrainer, predict
from mammo_dp.training.network_trainer import Network, NetworkTrainer
from mammo_dp.training.plans import Plan

Scores = Callable[[np.ndarray], np.ndarray]  # positions in the patch set -> probability of malignant


@dataclass(frozen=True)
class Task:
    """What is trained on, how, and where."""

    config: Config
    patches: PatchSet
    units: Units
    public: Units | None
    plan: Plan
    randomness: Randomness
    device: torch.device

    @property
    def of_every_trainer(self) -> dict[str, Any]:
        """Arguments that every trainer takes."""
        return {
            "plan": self.plan,
            "recipe": self.config.recipe,
            "randomness": self.randomness,
            "device": self.device,
        }

    @property
    def labels(self) -> torch.Tensor:
        return torch.from_numpy(self.patches.malignant)


def start(task: Task, inputs: Mapping[str, Artifact]) -> tuple[HeadTrainer | NetworkTrainer, Scores]:
    """The trainer that the configuration asks for, before its first step, and how it scores patches."""
    return (network_run if task.config.classifier.trains_backbone else head_run)(task, inputs)


def network_run(task: Task, inputs: Mapping[str, Artifact]) -> tuple[NetworkTrainer, Scores]:
    """Every parameter trains."""
    config, recipe = task.config, task.config.recipe
    backbone = _backbone(config, inputs)
    head = _head(config, inputs, width=feature_size(backbone), affine=None)
    trainer = NetworkTrainer(
        Network(backbone, head, prepare=preparation(config, inputs)),
        task.patches.images,
        task.units,
        task.labels,
        classifier=config.classifier,
        runtime=config.runtime,
        **task.of_every_trainer,
    )
    return trainer, lambda rows: trainer.scores(rows, test_flips=recipe.test_flips)


def head_run(task: Task, inputs: Mapping[str, Artifact]) -> tuple[HeadTrainer, Scores]:
    """The head trains; with classifier.trainable=norm_head also the last scale and shift, as its first layer."""
    config, recipe = task.config, task.config.recipe
    if config.reads_features:
        source, affine, width = cached_features(config, inputs, task.device)
        plain = source
    else:
        source, plain, affine, width = _from_images(task, inputs)
    head = _head(config, inputs, width=width, affine=affine)
    trainer = HeadTrainer(
        head,
        source,
        task.units,
        task.labels,
        public=task.public,
        **task.of_every_trainer,
    )
    return trainer, lambda rows: predict(trainer.head, plain, rows, test_flips=recipe.test_flips)


def _backbone(config: Config, inputs: Mapping[str, Artifact]) -> nn.Module:
    before = inputs.get("backbone")
    return build_backbone(config.classifier, load_file(before.path(BACKBONE)) if before else None)


def _head(
    config: Config, inputs: Mapping[str, Artifact], *, width: int, affine: Affine | None
) -> nn.Sequential:
    """A fresh head, or that of synpre where this run continues it and does not start at zero."""
    head = build_head(config.recipe, features=width, seed=config.seed)
    if "backbone" in inputs and not config.recipe.zero_init:
        head.load_state_dict(load_file(inputs["backbone"].path(HEAD)), strict=True)
    return head if affine is None else nn.Sequential(affine, *head)


def preparation(config: Config, inputs: Mapping[str, Artifact]) -> Preparation:
    """What is done to features before the head."""
    fitted = inputs["preparation"].path(PREPARATION) if "preparation" in inputs else None
    return Preparation.of(config.recipe.model_dump(), fitted)


def cached_features(
    config: Config, inputs: Mapping[str, Artifact], device: torch.device
) -> tuple[CachedFeatures, Affine | None, int]:
    """The table of real and then synthetic features, what norm_head trains, and the length of a feature vector."""
    stored = [load_file(inputs[r].path(FEATURES)) for r in ("features", "synthetic_features") if r in inputs]
    features = CachedFeatures(
        torch.cat([tensors["features"] for tensors in stored]).to(device), prepare=preparation(config, inputs)
    )
    width = features.table.shape[-1]
    affine = None
    if config.classifier.trainable == "norm_head":
        affine = Affine(width)
        affine.load_state_dict({"weight": stored[0][SCALE], "bias": stored[0][SHIFT]})
    return features, affine, width


def _from_images(
    task: Task, inputs: Mapping[str, Artifact]
) -> tuple[FeatureSource, FeatureSource, Affine | None, int]:
    """Features for training, the same for scoring (without stochastic depth), and what norm_head trains."""
    config, settings = task.config, task.config.classifier
    prepare = preparation(config, inputs)

    def source(backbone: nn.Module, layers_rng: torch.Generator | None = None) -> ImageFeatures:
        encode = encoder(backbone, task.device, precision=config.runtime.precision)
        return ImageFeatures(
            task.patches.images, encode, settings, prepare=prepare,
            batch_size=config.runtime.batch_size, layers_rng=layers_rng,
        )  # fmt: skip

    backbone = _backbone(config, inputs)
    affine = take_norm(backbone, settings) if settings.trainable == "norm_head" else None
    plain = source(backbone)
    if settings.backbone_mode == "eval":
        return plain, plain, affine, config.recipe.components or feature_size(backbone)
    again = _backbone(config, inputs)
    if affine is not None:
        take_norm(again, settings)
    random = source(with_stochastic_depth(again), task.randomness.generator("layers"))
    return random, plain, affine, feature_size(backbone)
