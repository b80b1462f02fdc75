"""The models of an audit: heads retrained with and without each record, and runs of the real trainer with canaries."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from mammo_dp.artifacts import Artifact
from mammo_dp.audit.canaries import Canaries
from mammo_dp.audit.retrains import Rows, retrain
from mammo_dp.data.transforms import FLIPS
from mammo_dp.models.classifier import class_difference
from mammo_dp.privacy.events import Unit
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.classifier import HeadTrainer
from mammo_dp.training.network import NetworkTrainer
from mammo_dp.training.optimizers import learning_rate
from mammo_dp.training.runs import Task, head_run, start

LENGTHS = 64  # real units whose clipped length is measured, at three steps
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
    """One run of the real trainer with `count` canaries, or as many as there are parameters.

    The claim is about the task's mechanism; the run adds `noise_fraction` of its noise. Canaries test sampling and
    noise, and bring their own length; so the length of real units is measured beside them, before the first step,
    halfway and before the last.

    Gives scores and members, (canaries,) each; noise, the sum of its squares in units of the claimed one and how many
    draws it is of; longest, of a real unit over C.
    """
    claimed = task.plan.mechanism
    assert claimed is not None  # nothing bounds a run without noise
    given = replace(claimed, noise_multiplier=noise_fraction * claimed.noise_multiplier)
    audited = replace(task, plan=replace(task.plan, mechanism=given), randomness=randomness)
    trainer, _ = start(audited, inputs)
    canaries = Canaries(trainer, claimed, count=count, generator=randomness.generator("canaries"))
    longest, steps = 0.0, task.plan.steps
    for step in range(steps):
        if step in (0, steps // 2, steps - 1):
            longest = max(longest, longest_unit(trainer, generator=randomness.generator("lengths")))
        trainer.step()
    result = canaries.result
    return {
        "scores": result.scores,
        "members": result.members,
        "noise": torch.tensor([result.noise_squares, result.noise_draws], dtype=torch.float64),
        "longest": torch.tensor(longest, dtype=torch.float64),
    }


def longest_unit(trainer: HeadTrainer | NetworkTrainer, *, generator: torch.Generator) -> float:
    """The longest sum of one unit alone, as the trainer clips it, over C; of LENGTHS units. At most 1 by the claim."""
    longest = 0.0
    for number in torch.randperm(len(trainer.units), generator=generator)[:LENGTHS, None]:
        if isinstance(trainer, NetworkTrainer):
            trainer.sum_gradients(number)
        else:
            alone = Units([positions[0].tolist() for positions in trainer.units.by_size(number)])
            trainer.sum_gradients(alone, torch.arange(len(alone)), flips=generator)
        parts = [p.grad for p in trainer.optimizer.params if p.grad is not None]
        norm = torch.stack([torch.linalg.vector_norm(g.double()) for g in parts]).norm()
        longest = max(longest, float(norm) / trainer.recipe.max_grad_norm)
    trainer.optimizer.zero_grad(set_to_none=True)
    return longest


def most_canaries(task: Task, inputs: Mapping[str, Artifact]) -> int:
    """How many fit into one run: one for each parameter that trains."""
    trainer, _ = start(task, inputs)
    return sum(parameter.numel() for parameter in trainer.optimizer.params)
