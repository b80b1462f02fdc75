"""The readers on what the toy writes, and on small hand-made tables in the forms that raw data takes."""

import cv2
import numpy as np
import pandas as pd
import pytest

from mammo_dp.data.patch_set import PatchSet
from mammo_dp.data.readers import bcdr, cbis_ddsm, release
from mammo_dp.data.records import Lesion, Outline, Skipped
from mammo_dp.data.sources import source_folders
from mammo_dp.errors import UserError
from mammo_dp.pipeline import Node
from tests.conftest import config_of


def folders(small):
    return source_folders(config_of(*small.small).dataset)


def test_toy_in_the_cbis_form(small):
    records = list(cbis_ddsm.read(folders(small)["toy_cbis"]))
    assert all(isinstance(record, Lesion) for record in records)
    assert len(records) == (16 + 8) * 2 + 4 + 2  # two views each, a second mass for every fourth patient
    assert {record.split for record in records} == {"train", "test"}
    assert {record.view for record in records} == {"CC", "MLO"}
    by_lesion = pd.Series([r.lesion for r in records]).value_counts()
    assert set(by_lesion) == {1, 2}  # one id in both views
    assert len({r.image for r in records}) < len(records)  # several lesions in some images


def test_crop_and_mask_come_in_either_order(small):
    records = [r for r in cbis_ddsm.read(folders(small)["toy_cbis"]) if isinstance(r, Lesion)]
    assert {r.region.path.name for r in records} == {"1-1.dcm", "1-2.dcm"}  # type: ignore[union-attr]


def test_toy_in_the_bcdr_form(small):
    records = list(bcdr.read(folders(small)["toy_bcdr"]))
    assert len(records) == 6 * 2 + 2
    assert all(isinstance(r, Lesion) and isinstance(r.region, Outline) for r in records)


def test_lesion_lies_in_the_middle_of_its_patch(small):
    """Patches are brighter in the middle than at the rim, for both forms: boxes and pixels agree."""
    patches = PatchSet.load(Node.of(config_of(*small.small), "extract_patches").artifact())
    for source in ("toy_cbis", "toy_bcdr"):
        images = patches.images[patches.index["source"] == source].astype(float)
        rim = np.concatenate([images[:, :12].ravel(), images[:, -12:].ravel()])
        assert images[:, 52:76, 52:76].mean() > rim.mean() + 5


def test_no_case_list(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"")
    with pytest.raises(UserError, match="no case list"):
        list(cbis_ddsm.read(tmp_path))
    with pytest.raises(UserError, match="no outlines table"):
        list(bcdr.read(tmp_path))


BCDR_ROW = "3,4,1,1,1, {view}, patient_3/img.tif, {xs}, 5 5 30 30 ,1, {nodule},0,0,0,0,0,50, NaN , {label} "


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"label": "Benign"}, False),
        ({"label": "suspect"}, "neither"),
        ({"nodule": "0"}, None),
        ({"view": "7"}, "image_view"),
        ({"xs": "5 30"}, "outline of 2"),
        ({"xs": "5 x 30 5"}, "whole numbers"),
    ],
)
def test_bcdr_rows(tmp_path, values, expected):
    from mammo_dp.data.toy import BCDR_COLUMNS

    folder = tmp_path / "BCDR-D01_dataset/patient_3"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "img.tif"), np.zeros((40, 40), np.uint8))
    row = BCDR_ROW.format(**{"view": "2", "xs": "5 30 30 5", "nodule": "1", "label": "Malign"} | values)
    table = folder.parent / "bcdr_d01_outlines.csv"
    table.write_text(", ".join(BCDR_COLUMNS) + "\n" + row + "\n")
    records = list(bcdr.read(tmp_path))
    if expected is None:
        assert records == []
    elif isinstance(expected, str):
        assert isinstance(records[0], Skipped)
        assert expected in records[0].reason
    else:
        (record,) = records
        assert isinstance(record, Lesion)
        assert (record.malignant, record.view, record.laterality) == (expected, "CC", "L")


def published(tmp_path, split="train", benign=True, name=None, content=None):
    folder = tmp_path / split / f"is_benign_{str(benign).lower()}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"patientcbis-ddsm__P_00001_image12_mass3_is_benign_{int(benign)}.png")
    path.write_bytes(
        cv2.imencode(".png", np.full((128, 128), 9, np.uint8))[1].tobytes() if content is None else content
    )
    return path


def test_release_names_and_folders(tmp_path):
    published(tmp_path)
    published(tmp_path, "test", benign=False)
    published(tmp_path, "val", name="other.png")
    published(tmp_path, "val", benign=False, name="patientbcdr__7_image1_mass1_is_benign_1.png")
    records = list(release.read(tmp_path))
    assert [r.malignant for r in records if isinstance(r, Lesion)] == [False, True]
    assert {r.patient for r in records if isinstance(r, Lesion)} == {"P_00001"}
    assert ["contradicts" in r.reason or "form" in r.reason for r in records if isinstance(r, Skipped)] == [
        True,
        True,
    ]


def test_unreadable_patch_is_a_row_and_the_run_goes_on(place):
    root = place.root / "release/cbis-ddsm"
    for number in range(30):
        name = f"patientcbis-ddsm__P_{number:05d}_image1_mass1_is_benign_1.png"
        published(root, name=name, content=b"not a picture" if number == 4 else None)
    words = (
        "stage=extract_patches",
        "dataset=release",
        f"dataset.root={root.parent}",
        f"outputs={place.outputs}",
    )
    assert place.run(*words) == 0
    (folder,) = place.folders("extract_patches")
    skipped = pd.read_csv(folder / "skipped.csv")
    assert len(skipped) == 1
    assert "P_00004" in skipped["row"][0]
    assert len(pd.read_csv(folder / "index.csv")) == 29

    published(root, name="patientcbis-ddsm__P_00005_image1_mass1_is_benign_1.png", content=b"")
    assert place.run(*words) == 1  # 2 of 30 is more than dataset.max_skipped
    assert "dataset.max_skipped" in place.said()[1]
