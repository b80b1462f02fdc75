"""Reader of CBIS-DDSM as TCIA serves it: official case lists (CSV) and the classic tree of DICOM files.

The CSV's file names match no download. Files are found by the SeriesInstanceUID in their path, and the mask is told
from the crop by its header (8 bits allocated), never by its name: in about half of the series the two are swapped.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mammo_dp.artifacts import walk_files
from mammo_dp.data.dicom import bits_allocated
from mammo_dp.data.records import Lesion, MaskFile, Skipped
from mammo_dp.errors import UserError

CASE_LISTS: dict[str, Literal["train", "test"]] = {
    "mass_case_description_train_set.csv": "train",
    "mass_case_description_test_set.csv": "test",
}
MALIGNANT = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}


def read(root: Path) -> Iterator[Lesion | Skipped]:
    """One record a row of the case lists found anywhere below `root`. Raises UserError if there is none."""
    files = list(walk_files(root))
    tables = [path for path in files if path.name in CASE_LISTS]
    if not tables:
        raise UserError(
            f"no case list ({' or '.join(CASE_LISTS)}) below the CBIS-DDSM folder; download them from TCIA and put "
            "them beside the images"
        )
    series: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() == ".dcm":
            series.setdefault(path.parent.name, []).append(path)
    for table in sorted(tables, key=lambda path: list(CASE_LISTS).index(path.name)):
        with table.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                yield _lesion(row, f"{table.name}:{number}", CASE_LISTS[table.name], series)


def _lesion(
    row: dict[str, str], where: str, split: Literal["train", "test"], series: dict[str, list[Path]]
) -> Lesion | Skipped:
    row = {key.strip(): (value or "").strip() for key, value in row.items() if key}
    if row["pathology"] not in MALIGNANT:
        return Skipped(where, f"pathology {row['pathology']!r} is neither benign nor malignant")
    images = series.get(_series_uid(row["image file path"]), [])
    if len(images) != 1:
        return Skipped(where, f"{len(images)} files in the mammogram's series, 1 expected")
    marked = {uid: series.get(uid, []) for uid in _roi_series(row)}
    masks = [path for paths in marked.values() for path in paths if bits_allocated(path) == 8]
    if len(masks) != 1:
        return Skipped(where, f"{len(masks)} masks in the lesion's series, 1 expected")
    side, view = row["left or right breast"], row["image view"]
    return Lesion(
        row=where,
        image_path=images[0],
        region=MaskFile(masks[0]),
        patient=row["patient_id"],
        image=f"{row['patient_id']}_{side}_{view}",
        malignant=MALIGNANT[row["pathology"]],
        split=split,
        lesion=f"{row['patient_id']}_{side}_{row['abnormality id']}",
        view=view,
        laterality=side[:1],
        density=row.get("breast_density", row.get("breast density", "")),
        abnormality="mass",
        subtlety=row["subtlety"],
        acquisition="film",
        pathology=row["pathology"],
    )


def _roi_series(row: dict[str, str]) -> dict[str, None]:
    """The series that may hold the mask: of the mask's and of the crop's path, each once."""
    return dict.fromkeys(_series_uid(row[f"{kind} file path"]) for kind in ("ROI mask", "cropped image"))


def _series_uid(path: str) -> str:
    """`<case>/<StudyUID>/<SeriesUID>/00000N.dcm` -> `<SeriesUID>`."""
    parts = path.replace("\\", "/").split("/")
    return parts[-2] if len(parts) > 1 else ""
