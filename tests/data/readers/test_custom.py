"""Tables that a hospital writes by hand, image by image and row by row."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mammo_dp.data import splits
from mammo_dp.data.cutting import Geometry, Place, Task, cut_image
from mammo_dp.data.readers import custom
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Skipped
from mammo_dp.errors import UserError
from mammo_dp.files import Cache, forget_identities
from tests.conftest import config_of

IMAGE = np.random.default_rng(0).integers(0, 256, (400, 300), dtype=np.uint8)
HEADER = "image,patient_id,label,mask,box,circle,polygon,lesion_id,view,laterality,density,split,source,abnormality"


EXTENT = "box without an extent; x0 y0 x1 y1 needed (not width and height), with x1 > x0 and y1 > y0"
MISSING = "image file is missing; paths are relative to the table, and capitals count"


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
    return (found.box.x0, found.box.y0, found.box.x1, found.box.y1) if isinstance(found, Place) else found


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
        ("a.png,Anna,perhaps,,1 1 9 9", "label is not benign, malignant, 0 or 1"),
        ("a.png,Anna,,,1 1 9 9", "label is empty"),
        (",Anna,benign,,1 1 9 9", "image is empty"),
        (
            "c.png,Anna,benign,,1 1 9 9",
            MISSING,
        ),
        ("a.png,Anna,benign", "0 of mask, box, circle and polygon are filled, 1 needed"),
        ("a.png,Anna,benign,m.png,1 1 9 9", "2 of mask, box, circle and polygon are filled, 1 needed"),
        (
            "a.png,Anna,benign,n.png",
            MISSING.replace("image", "mask"),
        ),
        (
            "a.png,Anna,benign,,-1 1 9 9",
            "box with a negative coordinate; x and y count from the top left corner",
        ),
        (
            "a.png,Anna,benign,,9 1 1 9",
            EXTENT,
        ),
        ("a.png,Anna,benign,,1 1 9", "box of 3 numbers; x0 y0 x1 y1 needed, with points as decimal marks"),
        ("a.png,Anna,benign,,0.1 0.2 0.3 0.4", "box in fractions of the image; pixels are needed"),
        (
            'a.png,Anna,benign,,,,"1,5 1,5 9,5 1,5 9,5 8,5"',
            "polygon with decimal commas; write points, or blanks between the numbers",
        ),
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
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,2,,St. Anna", "source may hold a-z, 0-9 and _ only"),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,2,,,cyst", "abnormality is not mass or calc"),
        ("a.png,Anna,benign,,1 1 9 9,,,,CC,L,2,,,,,,x", "more values than columns"),
        (f"{'a' * 300}.png,Anna,benign,,1 1 9 9", MISSING),
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
        k: v
        for k, v in record.__dict__.items()
        if k not in ("image_path", "region", "patient", "lesion", "key")
    }
    assert told == {
        "row": "row 2", "image": "image_of_row_2", "malignant": True, "split": "train", "view": "MLO",
        "laterality": "L", "density": "2", "abnormality": "mass", "subtlety": "", "acquisition": "",
        "pathology": "malignant", "source": "north", "note": "",
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


def test_no_patient_decides_about_another(tmp_path):
    """The same image and region under two patients: neither row knows of the other."""
    anna, berta = "a.png,Anna,benign,,1 1 9 9", "a.png,Berta,malignant,,1 1 9 9"
    assert [type(record) for record in read(tmp_path, anna, berta)] == [Lesion, Lesion]


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


def test_accents_are_one_patient_however_they_are_written(tmp_path):
    """One character or two (NFC, NFD), UTF-8 or what Windows writes."""
    composed, parted = read(tmp_path, "a.png,Jos\u00e9,benign,,1 1 9 9", "b.png,Jose\u0301,benign,,1 1 9 9")
    assert composed.patient == parted.patient  # type: ignore[union-attr]
    table = tmp_path / "masses.csv"
    seen = set()
    for encoding in ("utf-8", "cp1252"):
        table.write_bytes("image,patient_id,label,box\na.png,Šimon,benign,1 1 9 9\n".encode(encoding))
        asked = Request(tmp_path, "mass", Cache(tmp_path), table=table, pseudonyms=tmp_path / "private.csv")
        seen |= {record.patient for record in custom.read(asked)}  # type: ignore[union-attr]
    assert len(seen) == 1


def test_the_same_file_by_two_spellings_of_its_path_is_the_same(tmp_path):
    records = read(tmp_path, "a.png,Anna,benign,,1 1 9 9", "./a.png,Anna,malignant,,1  1 9 9")
    assert all(isinstance(record, Skipped) for record in records)


def test_numbers_of_spreadsheets(tmp_path):
    (record,) = read(tmp_path, "a.png,7,1.0,,1 1 9 9,,,,,,2.0")
    assert isinstance(record, Lesion)
    assert (record.malignant, record.density) == (True, "2")


@pytest.mark.parametrize(
    ("misspelt", "meant"), [("splt", "split"), ("poly", "polygon"), ("lateraliy", "laterality")]
)
def test_a_misspelt_column_is_not_passed_over(tmp_path, misspelt, meant):
    """A misspelt split would be replaced by a random one."""
    with pytest.raises(UserError, match=f"rename it if {meant} is meant"):
        read(tmp_path, "a.png,Anna,benign,1 1 9 9,x", header=f"image,patient_id,label,box,{misspelt}")
    assert read(tmp_path, "a.png,Anna,benign,1 1 9 9,x", header="image,patient_id,label,box,patient_age")


@pytest.mark.parametrize(("one", "other"), [("mrn-1", "MRN-1"), ("88007", "88007.0"), ("0071", "71")])
def test_one_patient_in_two_spellings_is_refused(tmp_path, one, other):
    with pytest.raises(
        UserError, match=r"rows 2 and 3 of the table .* name patients that differ only in capitals"
    ):
        read(tmp_path, f"a.png,{one},benign,,1 1 9 9", f"b.png,{other},benign,,1 1 9 9")


def test_a_lost_file_of_pseudonyms_moves_nobody(tmp_path):
    """The split is drawn from the id; new pseudonyms give the same split, so a finished artifact stays true."""
    rows = [f"a.png,P{i},benign,,1 1 {9 + i} 9" for i in range(40)]
    data = config_of("dataset=custom").dataset
    drawn = []
    for _ in range(2):
        assigned = [splits.assign(record, data.sources["custom"], data) for record in read(tmp_path, *rows)]
        drawn.append([(record.patient, record.split) for record in assigned])  # type: ignore[union-attr]
        (tmp_path / "private.csv").unlink()
    assert [split for _, split in drawn[0]] == [split for _, split in drawn[1]]
    assert {split for _, split in drawn[0]} == {"train", "val", "test"}
    assert not {patient for patient, _ in drawn[0]} & {patient for patient, _ in drawn[1]}


def test_windows_paths_and_names_beyond_ascii(tmp_path):
    (tmp_path / "Bilder").mkdir()
    cv2.imwrite(str(tmp_path / "Bilder/ü b.png"), IMAGE)
    table = tmp_path / "masses.csv"
    for encoding in ("utf-8", "latin-1", "utf-16"):
        table.write_bytes("image,patient_id,label,box\nBilder\\ü b.png,Ä,benign,5 5 50 50\n".encode(encoding))
        asked = Request(tmp_path, "mass", Cache(tmp_path), table=table, pseudonyms=tmp_path / "p.csv")
        (record,) = custom.read(asked)
        assert isinstance(record, Lesion), encoding


def identity_now(table: Path) -> str:
    """As the next command finds it."""
    forget_identities()
    return custom.identity(table)


def test_identity_follows_what_the_table_names_and_nothing_else(tmp_path):
    read(tmp_path, "a.png,Anna,benign,m.png")
    before = identity_now(tmp_path / "masses.csv")
    cv2.imwrite(str(tmp_path / "other.png"), IMAGE)
    (tmp_path / "private.csv").touch()
    assert identity_now(tmp_path / "masses.csv") == before
    cv2.imwrite(str(tmp_path / "m.png"), IMAGE[:200])
    other = identity_now(tmp_path / "masses.csv")
    assert other != before
    read(tmp_path, "a.png,Anna,malignant,m.png")
    assert identity_now(tmp_path / "masses.csv") not in (before, other)
    with pytest.raises(UserError, match="cannot be read"):
        identity_now(tmp_path / "none.csv")
