"""Outlines tables in both dialects, all subsets, and what lies beside their images."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammo_dp.data.readers import bcdr
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Outline, Skipped
from mammo_dp.data.toy import BCDR_COLUMNS
from mammo_dp.errors import UserError
from mammo_dp.files import Cache

VALUES = {
    "patient_id": "3", "study_id": "4", "series": "1", "lesion_id": "1", "segmentation_id": "1", "image_view": "2",
    "image_filename": " patient_3/study_4/img_3_4_1_LO.tif", "lw_x_points": " 5 30 30 5", "lw_y_points": " 5 5 30 30 ",
    "mammography_type": "1", "mammography_nodule": "1", "mammography_calcification": "0",
    "mammography_microcalcification": "0", "mammography_axillary_adenopathy": "0",
    "mammography_architectural_distortion": "0", "mammography_stroma_distortion": "0", "age": "50", "density": " NaN ",
    "classification": " Malign ",
}  # fmt: skip


def subset(root: Path, name: str, *rows: dict[str, str], separator=", ", folder: str | None = None) -> Path:
    place = root / (folder or f"BCDR-{name}_dataset")
    image = place / VALUES["image_filename"].strip()
    image.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), np.zeros((40, 40), np.uint8))
    lines = [separator.join((VALUES | row)[column] for column in BCDR_COLUMNS) for row in rows or ({},)]
    table = place / f"bcdr_{name.lower()}_outlines.csv"
    table.write_text("\n".join([separator.join(BCDR_COLUMNS), *lines]) + "\n")
    return place


def read(root: Path, abnormality="mass") -> list[Lesion | Skipped]:
    return list(bcdr.read(Request(root, abnormality, Cache(root))))


@pytest.mark.parametrize("separator", [",", ", "])
def test_a_row_in_both_dialects(tmp_path, separator):
    subset(tmp_path, "D01", separator=separator)
    (record,) = read(tmp_path)
    assert isinstance(record, Lesion)
    assert isinstance(record.region, Outline)
    assert record.region.points.tolist() == [[5, 5], [30, 5], [30, 30], [5, 30]]
    told = {k: v for k, v in record.__dict__.items() if k not in ("image_path", "region")}
    assert told == {
        "row": "bcdr_d01_outlines.csv:2", "patient": "D_3", "image": "D01_img_3_4_1_LO", "malignant": True, "split": "",
        "lesion": "D_3_4_1", "view": "CC", "laterality": "L", "density": "", "abnormality": "mass", "subtlety": "",
        "acquisition": "digital", "pathology": "malign", "source": "", "note": "", "key": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "laterality", "view"), [("1", "R", "CC"), ("2", "L", "CC"), ("3", "R", "MLO"), ("4", "L", "MLO")]
)
def test_view_codes(tmp_path, code, laterality, view):
    subset(tmp_path, "F02", {"image_view": code, "density": "3"})
    (record,) = read(tmp_path)
    assert isinstance(record, Lesion)
    assert (record.laterality, record.view, record.density, record.acquisition) == (
        laterality,
        view,
        "3",
        "film",
    )


def test_all_subsets_wherever_they_lie(tmp_path):
    for name in ("D01", "D02", "F01", "F02"):
        subset(tmp_path, name)
    subset(tmp_path, "F03", folder="BCDR-F03/BCDR-F03")
    records = read(tmp_path)
    assert len(records) == 5
    assert all(isinstance(record, Lesion) for record in records)
    assert {record.patient for record in records} == {"D_3", "F_3"}  # type: ignore[union-attr]
    assert len({record.image for record in records}) == 5  # type: ignore[union-attr]


def test_images_one_folder_deeper_and_masks_of_others(tmp_path):
    place = subset(tmp_path, "F03")
    image = place / VALUES["image_filename"].strip()
    deeper = place / "images/deeper" / image.name
    deeper.parent.mkdir(parents=True)
    image.rename(deeper)
    cv2.imwrite(str(deeper.with_name("img_3_4_1_LO_mask_id_10.tif")), np.zeros((40, 40), np.uint8))
    (record,) = read(tmp_path)
    assert isinstance(record, Lesion)
    assert record.image_path == deeper
    deeper.unlink()
    assert read(tmp_path) == [Skipped("bcdr_f03_outlines.csv:2", "image file is missing")]


def test_an_image_is_never_taken_from_another_subset(tmp_path):
    """Two subsets in one folder, images of the same name in each, one of them lost."""
    for name in ("D01", "F01"):
        row = {"image_filename": f"{name}/film.tif"}
        place = subset(tmp_path, name, row, folder="all")
        (place / name).mkdir(exist_ok=True)
        cv2.imwrite(str(place / name / "film.tif"), np.zeros((40, 40), np.uint8))
    (tmp_path / "all/F01/film.tif").unlink()
    (tmp_path / "all/copy").mkdir()
    (tmp_path / "all/copy/film.tif").write_bytes((tmp_path / "all/D01/film.tif").read_bytes())
    first, second = read(tmp_path)
    assert isinstance(first, Lesion)
    assert second == Skipped("bcdr_f01_outlines.csv:2", "image file is missing")


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    subset(tmp_path, "D01")
    subset(tmp_path, "F01")
    scan = os.scandir
    refuse = lambda folder: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))  # noqa: E731
    monkeypatch.setattr(
        os, "scandir", lambda folder: refuse(folder) if "F01" in str(folder) else scan(folder)
    )
    told, record = read(tmp_path)
    assert told == Skipped("folder BCDR-F01_dataset", "folder cannot be read")
    assert isinstance(record, Lesion)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classification": "Benign"}, False),
        ({"classification": " malignant"}, True),
        ({"classification": "suspect"}, "classification 'suspect' is neither benign nor malignant"),
        ({"classification": "insufficient"}, "classification 'insufficient' is neither benign nor malignant"),
        ({"image_view": "7"}, "image_view '7' is not 1 to 4"),
        ({"patient_id": " "}, "patient_id is empty"),
        ({"image_filename": ""}, "image file is missing"),
        ({"image_filename": "x" * 300}, "image file is missing"),
        ({"lw_x_points": "5 30"}, "outline of 2 x and 4 y values; at least 3 of each needed"),
        ({"lw_x_points": "", "lw_y_points": ""}, "outline of 0 x and 0 y values; at least 3 of each needed"),
        ({"lw_x_points": "5 x 30 5"}, "outline points are not whole numbers"),
        ({"lw_x_points": "5 9999999999 30 5"}, "outline points are no pixel positions"),
    ],
)
def test_rows(tmp_path, changes, reason):
    subset(tmp_path, "D01", changes)
    (record,) = read(tmp_path)
    if isinstance(reason, str):
        assert record == Skipped("bcdr_d01_outlines.csv:2", reason)
    else:
        assert isinstance(record, Lesion)
        assert record.malignant == reason


def test_what_is_not_a_mass_is_left_out_on_purpose(tmp_path):
    calc = {"mammography_nodule": "0", "mammography_microcalcification": "1", "segmentation_id": "2"}
    none = {"mammography_nodule": "0", "segmentation_id": "3"}
    subset(tmp_path, "D01", {}, calc, none)
    kinds = {k: [getattr(r, "abnormality", "") for r in read(tmp_path, k)] for k in ("mass", "calc", "all")}
    assert kinds == {"mass": ["mass", "", ""], "calc": ["", "calc", ""], "all": ["mass", "calc", ""]}
    assert all(record.on_purpose for record in read(tmp_path) if isinstance(record, Skipped))


def test_repeated_rows_and_tables(tmp_path):
    subset(tmp_path, "D01", {}, {}, {"segmentation_id": "2"})  # a second segmentation is a row of its own
    records = read(tmp_path)
    assert [getattr(r, "reason", "") for r in records] == ["", "repeats row 2", ""]
    place = subset(tmp_path, "D01", folder="copy")
    with pytest.raises(UserError, match="two different copies"):
        read(tmp_path)
    (place / "bcdr_d01_outlines.csv").write_bytes(
        (tmp_path / "BCDR-D01_dataset/bcdr_d01_outlines.csv").read_bytes()
    )
    assert len(read(tmp_path)) == 3


def test_no_table(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"")
    with pytest.raises(UserError, match="no outlines table"):
        read(tmp_path)
    (tmp_path / "bcdr_d01_outlines.csv").write_text("patient_id,study_id\n1,2\n")
    with pytest.raises(UserError, match=r"bcdr_d01_outlines\.csv has no column lesion_id"):
        read(tmp_path)
