"""Tables that a hospital writes by hand, image by image and row by row."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mammo_dp.artifacts import Cache
from mammo_dp.data.cutting import Cut, Geometry, Task, cut_image
from mammo_dp.data.readers import custom
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Skipped
from mammo_dp.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (400, 300), dtype=np.uint8)
HEADER = "image,patient_id,label,mask,box,circle,polygon,lesion_id,view,laterality,density,split,source,abnormality"


def read(folder: Path, *rows: str, header=HEADER, abnormality="mass") -> list[Lesion | Skipped]:
    (folder / "masses.csv").write_text("\n".join([header, *rows]) + "\n")
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    cv2.imwrite(str(folder / "b.png"), IMAGE[::-1])
    mask = np.zeros(IMAGE.shape, np.uint8)
    mask[100:150, 50:90] = 255
    cv2.imwrite(str(folder / "m.png"), mask)
    asked = Request(
        folder, abnormality, Cache(folder), table=folder / "masses.csv", pseudonyms=folder / "private.csv"
    )
    return list(custom.read(asked))


def box_of(record: Lesion | Skipped):
    assert isinstance(record, Lesion), record
    geometry = Geometry("contour", 60, 128, 128)
    found = cut_image(Task(record.image_path, ((0, record.region),), geometry)).outcomes[0]
    return (found.box.x0, found.box.y0, found.box.x1, found.box.y1) if isinstance(found, Cut) else found


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("m.png,,,", (50, 100, 90, 150)),
        (",50 100 90 150,,", (50, 100, 90, 150)),
        (',"50, 100, 90, 150",,', (50, 100, 90, 150)),
        (",(50; 100; 90; 150),,", (50, 100, 90, 150)),
        (",50.4 99.6 90 150,,", (50, 100, 90, 150)),
        (",,70 120 20,", (50, 100, 91, 141)),
        (",,,50 100 89 100 89 149 50 149", (50, 100, 90, 150)),
        (",0 0 300 400,,", (0, 0, 300, 400)),
        (",,10 15 20,", (0, 0, 31, 36)),  # cut off at the border
        (
            ",250 100 330 150,,",
            "box reaches outside the image of 300x400 px; another image or another scale?",
        ),
        (
            ",500 500 600 600,,",
            "lesion lies outside the image of 300x400 px; another image or another scale?",
        ),
        (",,-50 50 20,", "lesion lies outside the image of 300x400 px; another image or another scale?"),
    ],
)
def test_regions(tmp_path, cells, expected):
    assert box_of(read(tmp_path, f"a.png,Anna,benign,{cells}")[0]) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,,benign,,1 1 9 9", "patient_id is empty"),
        ("a.png,Anna,perhaps,,1 1 9 9", "label is not benign or malignant"),
        ("a.png,Anna,,,1 1 9 9", "label is not benign or malignant"),
        (",Anna,benign,,1 1 9 9", "image is empty"),
        ("c.png,Anna,benign,,1 1 9 9", "image file is missing"),
        ("a.png,Anna,benign", "0 of mask, box, circle and polygon are filled, 1 needed"),
        ("a.png,Anna,benign,m.png,1 1 9 9", "2 of mask, box, circle and polygon are filled, 1 needed"),
        ("a.png,Anna,benign,n.png", "mask file is missing"),
        (
            "a.png,Anna,benign,,-1 1 9 9",
            "box with a negative coordinate; x and y count from the top left corner",
        ),
        ("a.png,Anna,benign,,9 1 1 9", "box without an extent; x0 y0 x1 y1 needed, with x1 > x0 and y1 > y0"),
        ("a.png,Anna,benign,,1 1 9", "box of 3 numbers; x0 y0 x1 y1 needed"),
        ("a.png,Anna,benign,,1 1 9 x", "box holds something that is not a number"),
        ("a.png,Anna,benign,,1 1 9 nan", "box holds a number that is no pixel position"),
        ("a.png,Anna,benign,,1 1 9 1e300", "box holds a number that is no pixel position"),
        ("a.png,Anna,benign,,,5 5 0", "circle is not x y radius with a positive radius"),
        ("a.png,Anna,benign,,,,1 1 5 5", "polygon is not at least 3 pairs of x and y"),
        ("a.png,Anna,benign,,,,1 1 5 5 9", "polygon is not at least 3 pairs of x and y"),
        (
            "a.png,Anna,benign,,1 1 9 9,,,,SIDEWAYS",
            "view is none of the standard codes (CC, MLO, ML, LM, ...)",
        ),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,both", "laterality is not L, R or empty"),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,9", "density is not 1 to 4, A to D or empty"),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,2,dev", "split is not train, val, test or empty"),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,2,,St. Anna", "source may hold letters, digits and _ only"),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,2,,,cyst", "abnormality is not mass or calc"),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,2,,,,,,x", "more values than columns"),
        (f"{'a' * 300}.png,Anna,benign,,1 1 9 9", "image is no usable file name"),
    ],
)
def test_a_row_that_cannot_be_used_names_why_and_nobody(tmp_path, row, reason):
    good = "b.png,Berta,malignant,,5 5 50 50"
    first, second = read(tmp_path, row, good)
    assert first == Skipped("row 2", reason)
    assert isinstance(second, Lesion)
    assert "Anna" not in reason.replace("St. Anna", "")


def test_what_is_known_of_a_lesion(tmp_path):
    (record,) = read(tmp_path, "a.png,Anna,Malignant,m.png,,,,Anna-1,mlo,left,B,Train,North,mass")
    assert isinstance(record, Lesion)
    told = {
        k: v for k, v in record.__dict__.items() if k not in ("image_path", "region", "patient", "lesion")
    }
    assert told == {
        "row": "row 2", "image": "image_000001", "malignant": True, "split": "train", "view": "MLO", "laterality": "L",
        "density": "2", "abnormality": "mass", "subtlety": "", "acquisition": "", "pathology": "malignant",
        "source": "north", "note": "",
    }  # fmt: skip
    assert record.patient.startswith("p_")
    assert record.lesion == f"{record.patient}_1"


def test_one_pseudonym_a_patient_one_number_an_image(tmp_path):
    rows = ["a.png,Anna,benign,,1 1 9 9", "b.png,Anna,benign,,1 1 9 9", "a.png,Berta,benign,,2 2 9 9"]
    first, second, third = read(tmp_path, *rows)
    assert first.patient == second.patient != third.patient  # type: ignore[union-attr]
    assert first.image == third.image != second.image  # type: ignore[union-attr]
    again = read(tmp_path, *rows)
    assert [r.patient for r in again] == [r.patient for r in (first, second, third)]  # type: ignore[union-attr]


def test_repeats_and_contradictions(tmp_path):
    row, other = "a.png,Anna,benign,,1 1 9 9", "b.png,Anna,benign,,1 1 9 9"
    rows = [
        row,
        row,
        row.replace("1 1", "2 2"),
        row.replace("Anna", ""),
        other,
        other.replace("benign", "malignant"),
    ]
    assert [getattr(record, "reason", "") for record in read(tmp_path, *rows)] == [
        "", "repeats row 2", "", "patient_id is empty",
        "same image and region as row 7 with another label", "same image and region as row 6 with another label",
    ]  # fmt: skip


def test_a_row_that_gives_nothing_hides_no_other(tmp_path):
    rows = ["a.png,,benign,,1 1 9 9", "a.png,Anna,benign,,1 1 9 9"]
    assert [type(record) for record in read(tmp_path, *rows)] == [Skipped, Lesion]


def test_a_stated_split_holds_for_the_whole_patient(tmp_path):
    rows = [
        "a.png,Anna,benign,,1 1 9 9,,,,,,,test",
        "b.png,Anna,benign,,1 1 9 9",
        "b.png,Berta,benign,,2 2 9 9",
    ]
    assert [r.split for r in read(tmp_path, *rows)] == ["test", "test", ""]  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"rows 2 and 5 of the table.*one patient into test and train"):
        read(tmp_path, *rows, "b.png,Anna,benign,,9 9 20 20,,,,,,,train")


def test_calcifications_by_setting(tmp_path):
    rows = ["a.png,Anna,benign,,1 1 9 9,,,,,,,,,calc", "b.png,Anna,benign,,1 1 9 9"]
    first, second = read(tmp_path, *rows)
    assert first == Skipped("row 2", "calc rows are left out by dataset.abnormality=mass", on_purpose=True)
    assert isinstance(second, Lesion)
    assert all(isinstance(record, Lesion) for record in read(tmp_path, *rows, abnormality="all"))


def test_few_columns_are_enough(tmp_path):
    header, row = "Image;Patient ID;Label;Box", "a.png;Anna;1;5 5 50 50"
    assert box_of(read(tmp_path, row, header=header)[0]) == (5, 5, 50, 50)
    with pytest.raises(UserError, match="has no column label"):
        read(tmp_path, "a.png,Anna", header="image,patient_id")


def test_windows_paths_and_names_beyond_ascii(tmp_path):
    (tmp_path / "Bilder").mkdir()
    cv2.imwrite(str(tmp_path / "Bilder/ü b.png"), IMAGE)
    table = tmp_path / "masses.csv"
    for encoding in ("utf-8", "latin-1", "utf-16"):
        table.write_bytes("image,patient_id,label,box\nBilder\\ü b.png,Ä,benign,5 5 50 50\n".encode(encoding))
        asked = Request(tmp_path, "mass", Cache(tmp_path), table=table, pseudonyms=tmp_path / "p.csv")
        (record,) = custom.read(asked)
        assert isinstance(record, Lesion), encoding


def test_identity_follows_what_the_table_names_and_nothing_else(tmp_path):
    read(tmp_path, "a.png,Anna,benign,m.png")
    before = custom.identity(tmp_path / "masses.csv")
    cv2.imwrite(str(tmp_path / "other.png"), IMAGE)
    (tmp_path / "private.csv").touch()
    assert custom.identity(tmp_path / "masses.csv") == before
    cv2.imwrite(str(tmp_path / "m.png"), IMAGE[:200])
    other = custom.identity(tmp_path / "masses.csv")
    assert other != before
    read(tmp_path, "a.png,Anna,malignant,m.png")
    assert custom.identity(tmp_path / "masses.csv") not in (before, other)
    with pytest.raises(UserError, match="cannot be read"):
        custom.identity(tmp_path / "none.csv")
