"""Which patches are trained on, which an epoch is chosen on, and which of them make a unit of privacy."""

from collections.abc import Mapping

import numpy as np

from mammo_dp.config import Config
from mammo_dp.config.schema import Unit
from mammo_dp.data import synthetic
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact
from mammo_dp.errors import UserError
from mammo_dp.privacy.units import Units


def units_of(patches: PatchSet, positions: np.ndarray, *, unit: Unit, setting: str) -> Units:
    """The units at `positions` of the patches. `setting`: the configuration's key of `unit`, for the message.

    Raises UserError if patients are the unit and an id is missing.
    """
    if unit == "image":
        return Units.of_each(positions)
    patients = patches.patients[positions]
    if (patients == "").any():
        raise UserError(
            f"{setting}=patient needs to know whose image is whose, and {(patients == '').sum()} training patches "
            f"have no patient id; add the ids to the data, or set {setting}=image"
        )
    return Units.grouped(positions, patients)


def check_both_classes(patches: PatchSet, positions: np.ndarray, *, dataset: str) -> None:
    """Raise UserError if a class is missing among the training patches at `positions`."""
    malignant, count = patches.malignant[positions].sum(), len(positions)
    if not 0 < malignant < count:
        raise UserError(
            f"dataset={dataset} has {count} training patches, {malignant} of them malignant; both classes are needed "
            "in the training split"
        )


def training_patches(inputs: Mapping[str, Artifact]) -> PatchSet:
    """Real patches, and behind them the synthetic ones if the run has any."""
    patches = PatchSet.load(inputs["patches"])
    return patches.joined(PatchSet.load(inputs["synthetic"])) if "synthetic" in inputs else patches


def training_units(patches: PatchSet, config: Config) -> tuple[Units, Units | None]:
    """The units of privacy of the training set, and the synthetic images that enter without noise.

    Raises UserError if a class is missing, or a patient id where patients are the unit.
    """
    real = patches.rows("train") if config.experiment.uses_real else np.empty(0, dtype=np.int64)
    made = synthetic_rows(patches, config, held_out=False)
    check_both_classes(patches, np.concatenate([real, made]), dataset=config.dataset.name)
    public = None
    if config.synthetic.role == "public" and config.privacy.is_private and len(made):
        public, made = Units.of_each(made), made[:0]
    positions = np.concatenate([real, made])
    unit = config.privacy.unit if config.experiment.uses_real else "image"  # synthetic images have no patient
    return units_of(patches, positions, unit=unit, setting="privacy.unit"), public


def synthetic_rows(patches: PatchSet, config: Config, *, held_out: bool) -> np.ndarray:
    """Positions of the synthetic images to train on, or of those held out for choosing an epoch."""
    rows = patches.rows(synthetic.SOURCE)
    if config.experiment.uses_real or config.recipe.select != "best_val" or config.validates_on_real:
        return rows[:0] if held_out else rows
    fraction = config.synthetic.val_fraction
    names = patches.index["patient"].to_numpy()[rows]
    chosen = np.array([synthetic.is_held_out(name, fraction=fraction) for name in names], dtype=bool)
    return rows[chosen == held_out]


def validation_rows(patches: PatchSet, config: Config) -> np.ndarray:
    on_real = config.validates_on_real
    rows = patches.rows("val") if on_real else synthetic_rows(patches, config, held_out=True)
    if not 0 < patches.malignant[rows].sum() < len(rows):
        whose = "this dataset" if on_real else "the held-out part of the synthetic images"
        raise UserError(
            f"recipe.select=best_val needs validation patches of both classes and {whose} has none; use "
            f"recipe.select=last or recipe.select=average{'' if on_real else ', or a larger synthetic.val_fraction'}"
        )
    return rows
