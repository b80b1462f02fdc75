"""One generated tree from the real official lists, in every layout and dialect that is known to lie on disks."""

import csv
import io
import os
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from mammo_dp import cli
from mammo_dp.data import splits, toy
from mammo_dp.data.cutting import Geometry, Place, Task, cut_image
from mammo_dp.data.readers import cbis_ddsm
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, MaskFile, Skipped
from mammo_dp.errors import UserError
from mammo_dp.files import Cache, tree_identity
from mammo_dp.stages import node_of
from tests.conftest import Workplace, config_of, shared

pytestmark = pytest.mark.slow

SHAPE = (200, 160)  # px of a mammogram; masks of other sizes are 1.15 times as large
LISTS = [
    f"{kind}_case_description_{split}_set.csv" for kind in ("mass", "calc") for split in ("train", "test")
]
GEOMETRY = Geometry(box="contour", margin=60, min_side=128, size=128)


def request(folder: Path, abnormality="mass") -> Request:
    tree_identity.cache_clear()
    return Request(folder, abnormality, Cache(folder.parent / f".cache-{folder.name}"))


@dataclass
class Row:
    """A row of a mass list with what is planted for it."""

    image: tuple[str, str, str]  # case, study, series
    crop: tuple[str, str, str]
    mask: tuple[str, str, str]
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    mask_first: bool = False
    scale: float = 1.0
    speck: bool = False


@dataclass
class Tree:
    """`files`: (case, study, series, SOP UID, number in the series) -> its path in the classic tree."""

    root: Path
    rows: list[Row]
    files: dict[tuple[str, str, str, str, int], Path] = field(default_factory=dict)

    def layout(self, name: str, place) -> Path:
        """The same files under other names, as hard links, with the case lists at the root."""
        folder = self.root.parent / name
        for key, path in self.files.items():
            target = folder / place(*key)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
        for table in self.root.glob("*.csv"):
            os.link(table, folder / table.name)
        return folder


def parts(path: str) -> tuple[str, str, str]:
    case, study, series, _ = path.strip().split("/")
    return case, study, series


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    """The classic tree: a small 16-bit mammogram for each image, crop and 8-bit mask for each of 1,696 rows."""
    official = shared() / "data/cbis_ddsm"
    root = tmp_path_factory.mktemp("cbis") / "classic"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for name in LISTS:
        (root / name).write_bytes((official / name).read_bytes())
        if name.startswith("mass"):
            table = pd.read_csv(official / name)
            for record in table.to_dict("records"):
                rows.append(
                    Row(
                        *(
                            parts(record[f"{kind} file path"])
                            for kind in ("image", "cropped image", "ROI mask")
                        )
                    )
                )
    made = Tree(root, rows)
    images: dict[tuple[str, str, str], np.ndarray] = {}
    for number, row in enumerate(rows):
        width, height = (int(v) for v in rng.integers(12, 50, 2))
        x, y = int(rng.integers(0, SHAPE[1] - width)), int(rng.integers(0, SHAPE[0] - height))
        row.box = (x, y, x + width, y + height)
        row.mask_first = row.crop == row.mask and bool(rng.random() < 0.48)
        row.scale = 1.15 if number % 21 == 0 else 1.0
        row.speck = number % 19 == 0
        image = images.setdefault(row.image, noise(rng, SHAPE))
        image[y : y + height, x : x + width] += 20_000
    for place, image in images.items():
        write(made, place, "full mammogram images", image, 1)
    for row in rows:
        x0, y0, x1, y1 = row.box
        crop = images[row.image][y0:y1, x0:x1]
        if row.crop == row.mask:
            write(made, row.crop, "cropped images", crop, 2 if row.mask_first else 1)
            write(made, row.mask, "ROI mask images", planted_mask(row), 1 if row.mask_first else 2)
        else:
            write(made, row.crop, "cropped images", crop, 1)
            write(made, row.mask, "ROI mask images", planted_mask(row), 1)
    return made


def noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """16-bit texture of 8x8 px cells, which survives JPEG."""
    return (
        rng.integers(1_000, 30_000, (shape[0] // 8 + 1, shape[1] // 8 + 1), dtype=np.uint16)
        .repeat(8, 0)
        .repeat(8, 1)[: shape[0], : shape[1]]
    )


def planted_mask(row: Row) -> np.ndarray:
    height, width = (round(row.scale * side) for side in SHAPE)
    mask = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = (round(row.scale * v) for v in row.box)
    mask[y0:y1, x0:x1] = 255
    if row.speck:
        mask[(y0 + height // 2) % height, (x0 + width // 2) % width] = 255
    return mask


def write(tree: Tree, place: tuple[str, str, str], description: str, pixels: np.ndarray, number: int) -> None:
    case, study, series = place
    dataset = toy.secondary_capture(pixels, case, description, study, series, number)
    uid = f"{series[:48]}.{number}.{len(tree.files)}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    path = tree.root / "CBIS-DDSM" / case / study / series / f"1-{number}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    tree.files[(case, study, series, uid, number)] = path


def descriptive(with_na: bool):
    def place(case, study, series, uid, number):
        named = "ROI mask images" if case[-1].isdigit() else "full mammogram images"
        day = f"07-20-2016-DDSM-{'NA-' if with_na else ''}{study[-5:]}"
        return f"CBIS-DDSM/{case}/{day}/1.000000-{named}-{series[-5:]}/1-{number}.dcm"

    return place


LAYOUTS = {
    "rest": lambda case, study, series, uid, number: f"CBIS-DDSM/{case}/{study}/{series}/{number:08d}.dcm",
    "descriptive": descriptive(with_na=True),
    "descriptive-without-na": descriptive(with_na=False),
    "uuid": lambda case, study, series, uid, number: (
        f"CBIS-DDSM/{case}/{study}/{series}/{uuid.uuid5(uuid.NAMESPACE_OID, uid)}.dcm"
    ),
    "dicom": lambda case, study, series, uid, number: f"dicom/{study}/{series}/{uid}.dcm",
    "manifest": lambda case, study, series, uid, number: (
        f"manifest-1600709154662/CBIS-DDSM/{case}/{study}/{series}/1-{number}.dcm"
    ),
}


def boxes_agree(tree: Tree, box, row: Row, tolerance: int = 0) -> bool:
    found = (box.x0, box.y0, box.x1, box.y1)
    return bool(np.abs(np.subtract(found, row.box)).max() <= max(tolerance, 2 if row.scale != 1 else 0))


@pytest.fixture(scope="module")
def full(tree, tmp_path_factory) -> tuple[Workplace, Path]:
    """The whole classic tree cut by the command line, split as in the paper."""
    place = Workplace(tmp_path_factory.mktemp("full"))
    words = (
        "dataset=cbis_ddsm",
        f"dataset.root={tree.root}",
        f"outputs={place.outputs}",
        "runtime.workers=1",
    )
    assert place.run("stage=extract_patches", *words) == cli.DONE
    artifact = node_of(config_of(*words), "extract_patches").artifact()
    assert artifact is not None
    return place, artifact.folder


def test_every_row_of_the_official_lists_gives_its_patch(tree, full):
    folder = full[1]
    index = pd.read_csv(folder / "index.csv", dtype={"lesion": str})
    assert len(index) == 1696
    assert pd.read_csv(folder / "skipped.csv").empty
    off = [
        number
        for number, (_, found) in enumerate(index.iterrows())
        if not boxes_agree(tree, pd.Series(found[[f"box_{c}" for c in ("x0", "y0", "x1", "y1")]].values,
                                           index=["x0", "y0", "x1", "y1"]), tree.rows[number])
    ]  # fmt: skip
    assert off == []  # the mask was taken, not the crop, and no speck counted
    assert sum(row.mask_first for row in tree.rows) / sum(
        r.crop == r.mask for r in tree.rows
    ) == pytest.approx(0.48, abs=0.03)
    assert sum(row.crop != row.mask for row in tree.rows) == 92 + 11


def test_the_papers_split(full):
    """578 / 102 / 212 patients, 1,103 / 192 / 401 patches, of them 525 / 102 / 157 malignant (Osuala et al. 2024)."""
    index = pd.read_csv(full[1] / "index.csv")
    by_split = {split: rows for split, rows in index.groupby("split")}
    assert {s: len(rows) for s, rows in by_split.items()} == {"train": 1103, "val": 192, "test": 401}
    assert {s: rows["patient"].nunique() for s, rows in by_split.items()} == {
        "train": 578,
        "val": 102,
        "test": 212,
    }
    assert {s: rows["malignant"].sum() for s, rows in by_split.items()} == {
        "train": 525,
        "val": 102,
        "test": 157,
    }
    assert {s: rows["image"].nunique() for s, rows in by_split.items()} == {
        "train": 1025,
        "val": 185,
        "test": 382,
    }
    assert index.groupby("patient")["split"].nunique().max() == 1


def test_labels_of_the_official_split(tree):
    records = list(cbis_ddsm.read(request(tree.root)))
    by_split = {s: Counter(r.pathology for r in records if r.split == s) for s in ("train", "test")}
    assert by_split["train"] == {"MALIGNANT": 637, "BENIGN": 577, "BENIGN_WITHOUT_CALLBACK": 104}
    assert by_split["test"] == {"MALIGNANT": 147, "BENIGN": 194, "BENIGN_WITHOUT_CALLBACK": 37}
    assert len({r.patient for r in records if r.split == "train"}) == 691
    assert len({r.image for r in records if r.split == "train"}) == 1231
    several = Counter(r.image for r in records)
    both = {i for i in several if len({r.malignant for r in records if r.image == i}) > 1}
    assert len(both) == 8  # images with a malignant and a benign row: the label belongs to the row


def lesions_in(folder: Path) -> list[Lesion]:
    records = list(cbis_ddsm.read(request(folder)))
    assert [r for r in records if isinstance(r, Skipped)] == []
    return [r for r in records if isinstance(r, Lesion)]


def check_fifty(tree: Tree, lesions: list[Lesion], reference: Path | None, tolerance: int = 0) -> None:
    """Place 50 rows: the planted boxes and, where the pixels are the same, the very bytes of the full run."""
    index = None if reference is None else pd.read_csv(reference / "index.csv")
    for number in np.random.default_rng(1).choice(1696, 50, replace=False):
        lesion = lesions[number]
        result = cut_image(Task(lesion.image_path, ((0, lesion.region),), GEOMETRY))
        outcome = result.outcomes[0]
        assert isinstance(outcome, Place), outcome
        assert boxes_agree(tree, outcome.box, tree.rows[number], tolerance)
        if index is not None:
            assert (reference / index["patch"][number]).read_bytes() == result.pngs[0]  # type: ignore[operator]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_found_without_a_setting(tree, full, name):
    folder = tree.layout(name, LAYOUTS[name])
    lesions = lesions_in(folder)
    assert len(lesions) == 1696
    keys = {path.stat().st_ino: key for key, path in tree.files.items()}
    for lesion, row in zip(lesions, tree.rows, strict=True):
        assert keys[lesion.image_path.stat().st_ino][:3] == row.image
        (mask,) = lesion.region.candidates  # type: ignore[union-attr]
        case, study, series, _, number = keys[mask.stat().st_ino]
        assert (case, study, series) == row.mask
        assert number == (1 if row.mask_first or row.crop != row.mask else 2)
    check_fifty(tree, lesions, full[1])


def test_pictures_named_by_series(tree):
    """The JPEG form: jpeg/<SeriesUID>/1-172.jpg, crop and mask in either order, nothing in any header."""
    folder = tree.root.parent / "jpeg"
    for (_, _, series, _, number), path in tree.files.items():
        array = pydicom.dcmread(path).pixel_array
        target = folder / "jpeg" / series / f"{number}-{100 + number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        eight = array if array.dtype == np.uint8 else (array >> 8).astype(np.uint8)
        cv2.imwrite(str(target), eight, [cv2.IMWRITE_JPEG_QUALITY, 90])
    (folder / "csv").mkdir()
    for name in LISTS:
        os.link(tree.root / name, folder / "csv" / name)
    lesions = lesions_in(folder)
    assert len(lesions) == 1696
    assert all(isinstance(lesion.region, MaskFile) for lesion in lesions)
    check_fifty(tree, lesions, None, tolerance=2)


def in_dialect(data: bytes, dialect: str) -> bytes:
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    header, backbone = [name for name in rows[0]], rows[1:]
    if dialect == "lf":
        return data.replace(b"\r\n", b"\n")
    if dialect == "blanked":
        backbone = [["" if value == "N/A" else value for value in row] for row in backbone]
    if dialect == "early":
        early = {
            "left or right breast": "side", "image view": "view", "abnormality id": "abn_num",
            "image file path": "od_img_path", "cropped image file path": "od_crop_path",
            "ROI mask file path": "mask_path",
        }  # fmt: skip
        header = [early.get(name, name) for name in header]
        backbone = [
            [value.replace("/", "\\") if "/" in value and "1.3.6" in value else value for value in row]
            for row in backbone
        ]
    if dialect == "semicolons":
        return "\n".join(";".join(value.strip() for value in row) for row in [header, *backbone]).encode()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *backbone])
    return text.getvalue().encode("utf-8-sig" if dialect == "marked" else "utf-8")


@pytest.mark.parametrize("dialect", ["lf", "blanked", "early", "marked", "semicolons"])
def test_every_dialect_of_the_lists(tree, tmp_path, dialect):
    official = cbis_ddsm._case_lists(tree.root, [])
    for name in LISTS:
        (tmp_path / name).write_bytes(in_dialect((tree.root / name).read_bytes(), dialect))
    rewritten = cbis_ddsm._case_lists(tmp_path, [])
    assert rewritten.keys() == official.keys()
    for key, rows in official.items():
        for (number, row), (other, found) in zip(rows, rewritten[key], strict=True):
            assert number == other
            for column in cbis_ddsm.COLUMNS:
                assert found[column].replace("\\", "/") == row[column].replace("N/A", "")


def test_leaks_between_masses_and_calcifications(tree, tmp_path):
    """31 patients straddle train and test once calcifications are in, 13 of them from mass-train to calc-test."""
    lists = cbis_ddsm._case_lists(tree.root, [])
    patients = {key: {row["patient_id"] for _, row in rows} for key, rows in lists.items()}
    trained = patients["mass", "train"] | patients["calc", "train"]
    tested = patients["mass", "test"] | patients["calc", "test"]
    assert len(trained & tested) == 31
    assert len(patients["mass", "train"] & patients["calc", "test"]) == 13

    masses = lesions_in(tree.root)
    assert sum(bool(lesion.note) for lesion in masses) == sum(
        row["patient_id"] in patients["calc", "test"] for _, row in lists["mass", "train"]
    )
    everything = [r for r in cbis_ddsm.read(request(tree.root, "all")) if isinstance(r, Lesion)]
    splits.check_leaks(everything)  # whoever is tested under one kind is moved
    config = config_of(
        "dataset=cbis_ddsm", f"dataset.root={tree.root}", "dataset.abnormality=all", "privacy.epsilon=inf"
    )
    source = config.dataset.sources["cbis_ddsm"]
    assigned = [splits.assign(lesion, source, config.dataset) for lesion in everything]
    splits.check_leaks([lesion for lesion in assigned if isinstance(lesion, Lesion)])
    official = config.dataset.model_copy(update={"split": "official"})
    straddling = trained & tested
    moved = [splits.assign(lesion, source, official) for lesion in everything if lesion.patient in straddling]
    assert {lesion.split for lesion in moved if isinstance(lesion, Lesion)} == {"test"}

    masses[0] = Lesion(**{**masses[0].__dict__, "split": "test"})  # the control
    with pytest.raises(UserError, match="one patient into"):
        splits.check_leaks(masses)


def test_the_index_is_built_once_but_not_from_a_failing_disk(tree, monkeypatch):
    from mammo_dp.data import series

    asked = request(tree.root)
    asked = replace(asked, cache=Cache(tree.root.parent / ".cache-of-its-own"))

    def fails(path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(series.dicom, "read_header", fails)
        list(cbis_ddsm.read(asked))
    first = list(cbis_ddsm.read(asked))
    assert not any(isinstance(record, Skipped) for record in first)
    monkeypatch.setattr(series.dicom, "read_header", lambda path: pytest.fail("a header was read again"))
    again = list(cbis_ddsm.read(asked))
    assert [r.row for r in first] == [r.row for r in again]
    assert [r.image_path for r in first] == [r.image_path for r in again]  # type: ignore[union-attr]


# --- small trees of one row ---------------------------------------------------------------------------------------


def one_row(tmp_path: Path, **changes: str) -> Path:
    """Case lists of one mass each: image in series 1.2.3.4.1, crop and mask in 1.2.3.4.2."""
    values = {
        "patient_id": "P_1", "breast_density": "2", "left or right breast": "LEFT", "image view": "CC",
        "abnormality id": "1", "abnormality type": "mass", "pathology": "BENIGN", "subtlety": "3",
        "image file path": "c/1.2.3.3.1/1.2.3.4.1/000000.dcm",
        "cropped image file path": "c_1/1.2.3.3.2/1.2.3.4.2/000000.dcm",
        "ROI mask file path": "c_1/1.2.3.3.2/1.2.3.4.2/000001.dcm\n",
    } | changes  # fmt: skip
    for name, patient in ((LISTS[0], values["patient_id"]), (LISTS[1], "P_2")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, values, lineterminator="\r\n")
            writer.writeheader()
            writer.writerow(values | {"patient_id": patient})
    return tmp_path


def put(tmp_path: Path, series: str, name: str, pixels: np.ndarray, description: str = "") -> Path:
    dataset = toy.secondary_capture(pixels, "case", description, "1.2.3.3.9", series, 1)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = (
        f"1.2.3.9.{int.from_bytes((series + name).encode()[-12:])}"
    )
    path = tmp_path / series / name
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def pixels16(shape=(200, 160)) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 60_000, shape, dtype=np.uint16)


def pixels8(shape=(200, 160), box=(40, 60, 90, 120)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


def outcome_of(folder: Path):
    record = next(cbis_ddsm.read(request(folder)))
    if isinstance(record, Skipped):
        return record.reason
    return cut_image(Task(record.image_path, ((0, record.region),), GEOMETRY)).outcomes[0]


def test_blank_descriptions_and_8_bit_crops_are_told_by_pixels(tmp_path):
    """Neither depth nor description nor size tells: the crop is as large as the mammogram."""
    one_row(tmp_path)
    put(tmp_path, "1.2.3.4.1", "a.dcm", pixels16())
    put(tmp_path, "1.2.3.4.2", "a.dcm", (pixels16() >> 8).astype(np.uint8))
    put(tmp_path, "1.2.3.4.2", "b.dcm", pixels8())
    found = outcome_of(tmp_path)
    assert isinstance(found, Place)
    assert (found.box.x0, found.box.y0, found.box.x1, found.box.y1) == (40, 60, 90, 120)


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([pixels8(), pixels8(box=(10, 10, 50, 50))], "2 files look like the mask"),
        ([(pixels16() >> 8).astype(np.uint8)], "grey values"),
        ([np.zeros((200, 160), np.uint8)], "marks nothing"),
        ([255 - pixels8()], "inverted"),
        ([pixels8((200, 100))], "does not lie on the image"),
        ([np.where(pixels8() > 0, 2, pixels8(box=(10, 10, 30, 30)) // 255)], "several labels"),
        ([], "no file in the lesion's series"),
        ([pixels16((50, 40))], "no file in the lesion's series"),  # the crop alone, of the mammogram's aspect
    ],
)
def test_masks_that_are_none(tmp_path, masks, reason):
    one_row(tmp_path)
    put(tmp_path, "1.2.3.4.1", "a.dcm", pixels16())
    for number, mask in enumerate(masks):
        put(
            tmp_path, "1.2.3.4.2", f"{number}.dcm", mask if mask.dtype == np.uint16 else mask.astype(np.uint8)
        )
    assert reason in outcome_of(tmp_path)


def test_a_small_change_of_aspect_is_noted(tmp_path):
    """Calc P_00353 of the release changes aspect by 0.3 to 0.6 %: cut, with a note; beyond 1 % it is another image."""
    one_row(tmp_path)
    put(tmp_path, "1.2.3.4.1", "a.dcm", pixels16((1000, 800)))
    put(tmp_path, "1.2.3.4.2", "b.dcm", pixels8((1005, 800)))
    found = outcome_of(tmp_path)
    assert isinstance(found, Place)
    assert found.note == "mask and image differ by 0.5% in aspect"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pathology": "UNKNOWN"}, "neither benign nor malignant"),
        ({"patient_id": ""}, "patient_id is empty"),
        ({"image view": "XX"}, "neither CC nor MLO"),
        ({"left or right breast": "BOTH"}, "neither left nor right"),
        ({"image file path": "c/1.2.3.3.1/1.2.3.4.7/000000.dcm"}, "0 files in the mammogram's series"),
        ({"image file path": "nonsense"}, "0 files in the mammogram's series"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, changes, reason):
    one_row(tmp_path, **changes)
    put(tmp_path, "1.2.3.4.1", "a.dcm", pixels16())
    put(tmp_path, "1.2.3.4.2", "b.dcm", pixels8())
    assert reason in outcome_of(tmp_path)


def test_repeated_and_contradictory_rows(tmp_path):
    table = one_row(tmp_path) / LISTS[0]
    text = table.read_text()
    row = text[text.index("P_1") :]
    table.write_text(
        text + row + row.replace("P_1", "P_2") + row.replace("P_1", "P_2").replace("BENIGN", "MALIGNANT")
    )
    put(tmp_path, "1.2.3.4.1", "a.dcm", pixels16())
    put(tmp_path, "1.2.3.4.2", "b.dcm", pixels8())
    records = list(cbis_ddsm.read(request(tmp_path)))
    assert isinstance(records[0], Lesion)
    assert [r.reason for r in records[1:-1]] == [  # type: ignore[union-attr]
        "repeats row 2",
        "rows of one lesion with different pathologies (BENIGN, MALIGNANT)",
        "rows of one lesion with different pathologies (BENIGN, MALIGNANT)",
    ]


def test_lists_that_cannot_be_used(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"")
    with pytest.raises(UserError, match="no case list"):
        list(cbis_ddsm.read(request(tmp_path)))
    one_row(tmp_path)
    with pytest.raises(UserError, match="no case list calc_case_description_train_set"):
        list(cbis_ddsm.read(request(tmp_path, "calc")))
    with pytest.raises(UserError, match="no case list calc_case_description_train_set"):
        list(cbis_ddsm.read(request(tmp_path, "all")))
    (tmp_path / LISTS[1]).rename(tmp_path / "aside.csv")
    with pytest.raises(UserError, match="no case list mass_case_description_test_set"):
        list(cbis_ddsm.read(request(tmp_path)))
    (tmp_path / "aside.csv").rename(tmp_path / LISTS[1])
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / LISTS[0]).write_bytes((tmp_path / LISTS[0]).read_bytes())
    list(cbis_ddsm.read(request(tmp_path)))  # the same twice is no harm
    one_row(tmp_path / "copy", pathology="MALIGNANT")
    with pytest.raises(UserError, match="two different copies"):
        list(cbis_ddsm.read(request(tmp_path)))
