"""The models of an audit: heads retrained with and without each record, and runs of the real trainer with canaries."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mammo_dp.audit.canaries import Canaries, with_room
from mammo_dp.audit.dependence import dependence, differing_sums, differing_weights, noise_in_weights
from mammo_dp.audit.residuals import TESTS
from mammo_dp.audit.retrains import Rows, retrain
from mammo_dp.data.transforms import FLIPS
from mammo_dp.engine.artifacts import Artifact
from mammo_dp.models.bundle import HEAD
from mammo_dp.models.head import class_difference
from mammo_dp.privacy.events import Unit
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.build import Task, head_run, start
from mammo_dp.training.features import FEATURES
from mammo_dp.training.head_trainer import HeadTrainer
from mammo_dp.training.network_trainer import NetworkTrainer
from mammo_dp.training.optimizers import learning_rate

CHANCE = 0.5  # that a record is in the training set of a retrained head


@dataclass(frozen=True)
class Records:
    """Whose membership is attacked: images, or patients with all their images."""

    of_position: np.ndarray  # (patches,) number of the record, -1 outside the training set
    names: list[str]  # (records,) pseudonym or name of the patch
    images: np.ndarray  # (records,) numbers of images

    @classmethod
    def of(cls, task: Task, unit: Unit) -> "Records":
        """A patient who is not known by name is a patient for each image."""
        rows = task.patches.rows("train")
        patches = task.patches.index["patch"].to_numpy(str)[rows]
        patients = task.patches.patients[rows].astype(str)
        keys = patches if unit == "image" else np.where(patients == "", patches, patients)
        names, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
        of_position = np.full(len(task.patches.index), -1)
        of_position[rows] = numbers
        return cls(of_position, names.tolist(), counts)


def retrained(
    task: Task, inputs: Mapping[str, Artifact], records: Records, *, models: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Margins of each record under `models` heads, and whose training set it was in: (records, models) each.

    Every head has the run's recipe, unit, clipping and noise, on a random part of the records. A margin is the logit
    of the record's true class, mean over its images and flips.
    """
    trainer, _ = head_run(task, inputs)
    head = trainer.head[0]
    assert isinstance(head, nn.Linear)
    flips = FLIPS if task.config.recipe.flips == "all" else 1
    groups = []
    for positions in task.units.by_size(torch.arange(len(task.units))):
        each = positions.repeat_interleave(flips, dim=1)
        features = trainer.source.rows(
            positions.flatten(), torch.arange(flips).expand(positions.numel(), flips)
        )
        features = features.reshape(len(positions), -1, features.shape[-1]).cpu()
        groups.append(Rows.of(features, task.labels[each], torch.from_numpy(records.of_position)[each]))
    members = torch.rand(len(records.names), models, generator=generator) < CHANCE
    plan = replace(task.plan, public_count=max(round(CHANCE * task.plan.public_count), 1))
    value = retrain(
        groups, members, mechanism=plan.mechanism, steps=plan.steps,
        count=plan.public_count, recipe=task.config.recipe,
        lr=learning_rate(task.config.recipe, plan), start=class_difference(head).cpu(),
        generator=generator,
    )  # fmt: skip
    return {"margins": _margins(groups, value, records), "members": members}


def _margins(groups: list[Rows], value: torch.Tensor, records: Records) -> torch.Tensor:
    total = torch.zeros(len(records.names), value.shape[1])
    rows = torch.zeros(len(records.names), 1)
    for group in groups:
        signs = (2 * group.labels.flatten() - 1)[:, None]
        numbers = group.records.flatten()
        total.index_add_(0, numbers, signs * (group.features.flatten(0, 1) @ value[:-1] + value[-1]))
        rows.index_add_(0, numbers, torch.ones(len(numbers), 1))
    return total / rows


def with_canaries(
    task: Task,
    inputs: Mapping[str, Artifact],
    randomness: Randomness,
    *,
    count: int,
    noise_fraction: float,
) -> dict[str, torch.Tensor]:
    """One run of the real trainer with `count` canaries among its units, at most as many as there are parameters.

    The claim is about the task's mechanism; the run adds `noise_fraction` of its noise. The real units are looked at
    before the first step, halfway and before the last (`dependence`).

    Gives scores and members, (canaries,) each; noise, the sum of its squares in units of the claimed one and how many
    draws it is of; p_values in the order of TESTS; dependence: longest unit, defect (NaN: not measured), exact.
    """
    claimed = task.plan.mechanism
    assert claimed is not None  # nothing bounds a run without noise
    trainer = _started(
        replace(task, units=with_room(task.units, count)), inputs, randomness, noise_fraction=noise_fraction
    )
    canaries = Canaries(
        trainer,
        claimed,
        count=count,
        clip=task.config.recipe.max_grad_norm,
        generator=randomness.generator("canaries"),
    )
    looks, steps = [], task.plan.steps
    for step in range(steps):
        if step in (0, steps // 2, steps - 1):
            looks.append(dependence(trainer))
        trainer.step()
    residuals = canaries.residuals
    found = residuals.p_values()
    defects = [look.defect for look in looks if look.defect is not None]
    own = [max(look.longest for look in looks), max(defects, default=float("nan")), float(looks[0].exact)]
    return {
        "scores": canaries.total,
        "members": canaries.coins,
        "noise": torch.tensor(
            [residuals.total_squares, residuals.size * residuals.count], dtype=torch.float64
        ),
        "first": residuals.first if residuals.first is not None else torch.empty(0, dtype=torch.float64),
        "p_values": torch.tensor([found[name] for name in TESTS], dtype=torch.float64),
        "dependence": torch.tensor(own, dtype=torch.float64),
    }


def pair(task: Task, inputs: Mapping[str, Artifact], randomness: Randomness) -> dict[str, torch.Tensor]:
    """Weights that differ between two runs of the real trainer under the same noisy sums, and entries of the other
    units' first sum (`differing_weights`, `differing_sums`).

    The second run has no member of the largest unit: its images are black, their labels flipped and their features zero
    wherever anything may read them.
    """
    largest = int(torch.argmax(task.units.sizes))
    members = task.units.members()
    gone = np.array(members[largest], dtype=np.int64)
    index = task.patches.index.copy()
    index["malignant"] = np.where(
        np.isin(np.arange(len(index)), gone), 1 - index["malignant"], index["malignant"]
    )
    patches = replace(task.patches, index=index)
    if "features" not in inputs:
        images = task.patches.images.copy()
        images[gone] = 0
        patches.__dict__["images"] = images  # where it keeps them once they are read
    units = Units([[] if number == largest else unit for number, unit in enumerate(members)])
    first = _started(task, inputs, randomness, noise_fraction=1.0)
    with tempfile.TemporaryDirectory() as folder:
        blank = _blanked(inputs, gone, Path(folder))
        second = _started(replace(task, patches=patches, units=units), blank, randomness, noise_fraction=1.0)
        found = differing_sums(first, second, changed=largest)
        return {"differing": torch.tensor(found + differing_weights(first, second))}


@dataclass(frozen=True)
class _Blanked(Artifact):
    """Features of which some rows are zero."""

    file: Path

    def path(self, name: str) -> Path:
        return self.file


def _blanked(inputs: Mapping[str, Artifact], gone: np.ndarray, folder: Path) -> Mapping[str, Artifact]:
    if "features" not in inputs:
        return inputs
    own = inputs["features"]
    tensors = load_file(own.path(FEATURES))
    tensors["features"][torch.from_numpy(gone)] = 0  # real patches come first
    save_file(tensors, folder / FEATURES)
    return {**inputs, "features": _Blanked(own.folder, own.manifest, folder / FEATURES)}


def _started(
    task: Task, inputs: Mapping[str, Artifact], randomness: Randomness, *, noise_fraction: float
) -> HeadTrainer | NetworkTrainer:
    claimed = task.plan.mechanism
    assert claimed is not None
    given = replace(claimed, noise_multiplier=noise_fraction * claimed.noise_multiplier)
    trainer, _ = start(replace(task, plan=replace(task.plan, mechanism=given), randomness=randomness), inputs)
    return trainer


def most_canaries(task: Task, inputs: Mapping[str, Artifact]) -> int:
    """How many fit into one run: one for each parameter that trains."""
    trainer, _ = start(task, inputs)
    assert trainer.optimizer is not None
    return sum(parameter.numel() for parameter in trainer.optimizer.parameters)


def released_noise(task: Task, classifier: Artifact) -> tuple[float, int] | None:
    """`noise_in_weights` of the finished classifier, where its recipe is SGD on a linear head from zero."""
    recipe, config = task.config.recipe, task.config
    readable = (
        (recipe.head, recipe.optimizer, recipe.zero_init, config.classifier.trainable)
        == ("linear", "sgd", True, "head")
        and recipe.select != "best_val"
        and not recipe.weight_decay
        and task.public is None
    )
    if not readable:
        return None
    weights = {key: value.double().numpy() for key, value in load_file(classifier.path(HEAD)).items()}
    return noise_in_weights(
        weights["0.weight"], weights["0.bias"], plan=task.plan, recipe=recipe, clip=recipe.max_grad_norm
    )
