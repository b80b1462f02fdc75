"""Which images belong to which unit of privacy."""

import pandas as pd
import pytest
import torch

from mammo_dp.data.patch_set import PatchSet
from mammo_dp.errors import UserError
from mammo_dp.training.units import training_units
from tests.conftest import config_of


def patch_set(synthetic: int = 0) -> PatchSet:
    rows = [
        ("a", "train", "P1"),
        ("a", "train", "P1"),
        ("b", "train", "P1"),
        ("a", "train", "P2"),
        ("a", "test", "P3"),
    ]
    rows += [("synthetic", "synthetic", f"batch_0_{i}_benign") for i in range(synthetic)]
    index = pd.DataFrame(rows, columns=["source", "split", "patient"])
    index["malignant"] = [i % 2 for i in range(len(index))]
    return PatchSet((), index)


def blocks(units) -> list[list[int]]:
    return sorted(row for block in units.by_size(torch.arange(len(units))) for row in block.tolist())


def test_patients_are_units_within_a_source():
    units, public = training_units(patch_set(), config_of("privacy.unit=patient"))
    assert blocks(units) == [[0, 1], [2], [3]]  # P1 of source b is somebody else
    assert public is None
    assert blocks(training_units(patch_set(), config_of())[0]) == [[0], [1], [2], [3]]


def test_synthetic_images_are_private_units_or_public():
    words = ("stage=train_classifier", "experiment=real_syn", "synthetic=release", "privacy.unit=patient")
    units, public = training_units(patch_set(synthetic=2), config_of(*words))
    assert blocks(units) == [[0, 1], [2], [3], [5], [6]]
    assert public is None
    units, public = training_units(patch_set(synthetic=2), config_of(*words, "synthetic.role=public"))
    assert blocks(units) == [[0, 1], [2], [3]]
    assert blocks(public) == [[5], [6]]


def test_a_missing_patient_id_is_refused_at_patient_level():
    patches = patch_set()
    patches.index.loc[0, "patient"] = ""
    assert len(training_units(patches, config_of())[0]) == 4
    with pytest.raises(UserError, match="no patient id"):
        training_units(patches, config_of("privacy.unit=patient"))
