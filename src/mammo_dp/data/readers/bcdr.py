"""Reader of the Breast Cancer Digital Repository: outlines tables (CSV) and TIFF images of the subsets D01 to F03.

Both dialects of the tables (`,` and `, ` between the values) and blanks around values are read. Columns and codes:
bcdr.eu, as described in the documentation of each subset.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mammo_dp.data.readers.regions import LARGEST, is_there
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Outline, Skipped
from mammo_dp.data.tables import FAULT, Row, read_table
from mammo_dp.errors import UserError
from mammo_dp.files import walk_files

TABLE = re.compile(r"bcdr_(?P<subset>[df]\d\d)_outlines\.csv", re.IGNORECASE)
MALIGNANT = {"benign": False, "malign": True, "malignant": True}
VIEWS = {"1": ("R", "CC"), "2": ("L", "CC"), "3": ("R", "MLO"), "4": ("L", "MLO")}
FLAGS = {"mass": ("nodule",), "calc": ("calcification", "microcalcification")}
COLUMNS = (
    "patient_id", "study_id", "lesion_id", "image_view", "image_filename", "lw_x_points", "lw_y_points",
    "mammography_nodule", "classification",
)  # fmt: skip
OPTIONAL = ("segmentation_id", "density", "mammography_calcification", "mammography_microcalcification")


def read(request: Request) -> Iterator[Lesion | Skipped]:
    """One record for each outline of each subset below the folder. Raises UserError if there is no table."""
    refused: list[Path] = []
    files = list(walk_files(request.folder, refused))
    tables = [(path, name) for path in files if (name := TABLE.fullmatch(path.name))]
    if not tables:
        raise UserError("no outlines table (bcdr_d01_outlines.csv and the like) below the BCDR folder")
    yield from (Skipped(f"folder {folder.name}", "folder cannot be read") for folder in refused)
    seen: dict[str, list[tuple[int, Row]]] = {}
    for table, name in tables:
        rows = read_table(table, title=table.name, required=COLUMNS, optional=OPTIONAL)
        subset = name["subset"].upper()
        if seen.setdefault(subset, rows) is not rows:
            if seen[subset] != rows:
                raise UserError(f"two different copies of {table.name} below the BCDR folder; keep one")
            continue
        images = [path for path in files if path.is_relative_to(table.parent)]
        names = Counter(path.name for path in images)
        unique = {path.name: path for path in images if names[path.name] == 1}
        first: dict[tuple[str, ...], int] = {}
        for number, row in rows:
            where = f"{table.name}:{number}"
            if first.setdefault(tuple(row.values()), number) != number:
                yield Skipped(where, f"repeats row {first[tuple(row.values())]}")
                continue
            yield _lesion(row, where, subset, request.abnormality, table.parent, unique)


def _lesion(
    row: Row, where: str, subset: str, abnormality: str, folder: Path, unique: dict[str, Path]
) -> Lesion | Skipped:
    if row[FAULT]:
        return Skipped(where, row[FAULT])
    kinds = [
        kind for kind, flags in FLAGS.items() if any(row[f"mammography_{flag}"] == "1" for flag in flags)
    ]
    if not set(kinds) & ({"mass", "calc"} if abnormality == "all" else {abnormality}):
        what = {"mass": "mass", "calc": "calcification", "all": "mass or calcification"}[abnormality]
        return Skipped(where, f"outlines no {what}", on_purpose=True)
    label = row["classification"].lower()
    if label not in MALIGNANT:
        return Skipped(where, f"classification {label!r} is neither benign nor malignant")
    if row["image_view"] not in VIEWS:
        return Skipped(where, f"image_view {row['image_view']!r} is not 1 to 4")
    if not row["patient_id"]:
        return Skipped(where, "patient_id is empty")
    points = _points(row)
    if isinstance(points, str):
        return Skipped(where, points)
    name = row["image_filename"].replace("\\", "/").strip()
    path = folder / name
    if not is_there(path):
        path = unique.get(path.name, path)  # wherever it lies below the table
    if not name or not is_there(path):
        return Skipped(where, "image file is missing")
    laterality, view = VIEWS[row["image_view"]]
    # The digital subsets share their patients' ids, and so do the film subsets.
    patient = f"{subset[0]}_{row['patient_id']}"
    return Lesion(
        row=where,
        image_path=path,
        region=Outline(points),
        patient=patient,
        image=f"{subset}_{path.stem}",
        malignant=MALIGNANT[label],
        lesion=f"{patient}_{row['study_id']}_{row['lesion_id']}",
        view=view,
        laterality=laterality,
        density=row["density"] if row["density"] in ("1", "2", "3", "4") else "",
        abnormality="mass" if "mass" in kinds and abnormality != "calc" else "calc",
        acquisition="digital" if subset.startswith("D") else "film",
        pathology=label,
    )


def _points(row: Row) -> np.ndarray | str:
    """(n, 2) array of x, y in px, or what is wrong with it."""
    try:
        xs, ys = ([int(value) for value in row[f"lw_{axis}_points"].split()] for axis in "xy")
    except ValueError:
        return "outline points are not whole numbers"
    if len(xs) != len(ys) or len(xs) < 3:
        return f"outline of {len(xs)} x and {len(ys)} y values; at least 3 of each needed"
    if max(map(abs, (*xs, *ys))) > LARGEST:
        return "outline points are no pixel positions"
    return np.array([xs, ys]).T
