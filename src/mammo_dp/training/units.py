"""Which patches make a unit of privacy."""

import numpy as np

from mammo_dp.data.patch_set import PatchSet
from mammo_dp.errors import UserError
from mammo_dp.privacy.units import Units
from mammo_dp.sections import Unit


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
