from collections import Counter
from pathlib import Path

import pytest

from mammo_dp.data.records import Lesion, Skipped, WholeImage
from mammo_dp.data.splits import assign, check_leaks, official_split, paper_split
from mammo_dp.errors import UserError
from tests.conftest import config_of


def test_paper_split_has_the_published_sizes():
    assert Counter(paper_split().values()) == {"train": 578, "val": 102, "test": 212}


def test_official_split_is_per_patient_and_independent():
    patients = [f"P_{i:05d}" for i in range(4000)]
    split = {p: official_split(p, "train", val_fraction=0.15, seed=0) for p in patients}
    assert 0.12 < Counter(split.values())["val"] / 4000 < 0.18
    assert all(official_split(p, "test", val_fraction=0.15, seed=0) == "test" for p in patients[:50])
    other = {p: official_split(p, "train", val_fraction=0.15, seed=1) for p in patients}
    assert split != other
    assert set(official_split(p, "train", val_fraction=0.0, seed=0) for p in patients) == {"train"}


def lesion(patient="P_1", split="", abnormality="mass") -> Lesion:
    return Lesion(
        row="r", image_path=Path("x"), region=WholeImage(), patient=patient, image="i", malignant=False,
        split=split, abnormality=abnormality,
    )  # fmt: skip


def shares(splits: list[str]) -> dict[str, float]:
    return {name: count / len(splits) for name, count in Counter(splits).items()}


def test_a_table_without_splits_is_divided_by_patient():
    data = config_of("dataset=custom", "dataset.test_fraction=0.2", "dataset.val_fraction=0.25").dataset
    given = [lesion(f"p_{i}") for i in range(4000)]
    assigned = [assign(one, data.sources["custom"], data).split for one in given]  # type: ignore[union-attr]
    assert shares(assigned) == pytest.approx({"test": 0.2, "val": 0.2, "train": 0.6}, abs=0.02)
    again = [assign(one, data.sources["custom"], data).split for one in given[::-1]]  # type: ignore[union-attr]
    assert again[::-1] == assigned  # whoever else is there


@pytest.mark.parametrize("stated", ["train", "val", "test"])
def test_a_stated_split_stays(stated):
    data = config_of("dataset=custom", "dataset.test_fraction=0.5").dataset
    for i in range(20):
        assert assign(lesion(f"p_{i}", stated), data.sources["custom"], data).split == stated  # type: ignore[union-attr]


def test_paper_names_patients_with_masses_only():
    data = config_of("dataset=cbis_ddsm", "dataset.abnormality=all", "privacy.epsilon=inf").dataset
    source = data.sources["cbis_ddsm"]
    known = next(patient for patient, split in paper_split().items() if split == "val")
    for abnormality in ("mass", "calc"):  # whatever the official lists say
        assert assign(lesion(known, "test", abnormality), source, data).split == "val"  # type: ignore[union-attr]
    assert isinstance(assign(lesion("P_99999", "train"), source, data), Skipped)
    assert assign(lesion("P_99999", "test", "calc"), source, data).split == "test"  # type: ignore[union-attr]


def test_external_is_test():
    data = config_of("dataset=cbis_bcdr").dataset
    assert assign(lesion(), data.sources["bcdr"], data).split == "test"  # type: ignore[union-attr]


def test_leaks_are_found():
    check_leaks([lesion("a", "train"), lesion("a", "train"), lesion("b", "test")])
    check_leaks([lesion("", "train"), lesion("", "test")])  # nobody knows who they are
    with pytest.raises(UserError, match="one patient into train and test"):
        check_leaks([lesion("a", "train"), lesion("b", "test"), lesion("a", "test", "calc")])
