"""Reader of the Breast Cancer Digital Repository: outlines tables (CSV) and TIFF images.

Both dialects of the tables (`,` and `, ` between the values) and blanks around values are read. Columns and codes:
bcdr.eu, as described in the documentation of each subset.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mammo_dp.artifacts import walk_files
from mammo_dp.data.records import Lesion, Outline, Skipped
from mammo_dp.errors import UserError

TABLE = re.compile(r"bcdr_(?P<subset>[df]\d\d)_outlines\.csv", re.IGNORECASE)
MALIGNANT = {"benign": False, "malign": True, "malignant": True}
VIEWS = {"1": ("R", "CC"), "2": ("L", "CC"), "3": ("R", "MLO"), "4": ("L", "MLO")}


def read(root: Path) -> Iterator[Lesion | Skipped]:
    """One record for each outlined mass of each subset below `root`. Raises UserError if there is no table."""
    tables = [(path, name) for path in walk_files(root) if (name := TABLE.fullmatch(path.name))]
    if not tables:
        raise UserError("no outlines table (bcdr_d01_outlines.csv and the like) below the BCDR folder")
    for table, name in tables:
        subset = name["subset"].upper()
        with table.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file, skipinitialspace=True), start=2):
                record = _lesion(row, f"{table.name}:{number}", subset, table.parent)
                if record is not None:
                    yield record


def _lesion(row: dict[str, str], where: str, subset: str, folder: Path) -> Lesion | Skipped | None:
    """The record of a row, or None for a row that outlines something other than a mass."""
    row = {key.strip(): (value or "").strip() for key, value in row.items() if key}
    if row["mammography_nodule"] != "1":
        return None
    label = row["classification"].lower()
    if label not in MALIGNANT:
        return Skipped(where, f"classification {label!r} is neither benign nor malignant")
    if row["image_view"] not in VIEWS:
        return Skipped(where, f"image_view {row['image_view']!r} is not 1 to 4")
    try:
        xs, ys = ([int(value) for value in row[f"lw_{axis}_points"].split()] for axis in "xy")
    except ValueError:
        return Skipped(where, "outline points are not whole numbers")
    if len(xs) != len(ys) or len(xs) < 3:
        return Skipped(where, f"outline of {len(xs)} x and {len(ys)} y values; at least 3 of each needed")
    path = folder / row["image_filename"]
    if not path.is_file():
        return Skipped(where, "image file is missing")
    laterality, view = VIEWS[row["image_view"]]
    return Lesion(
        row=where,
        image_path=path,
        region=Outline(np.array([xs, ys]).T),
        patient=f"{subset}_{row['patient_id']}",
        image=f"{subset}_{path.stem}",
        malignant=MALIGNANT[label],
        lesion=f"{subset}_{row['patient_id']}_{row['study_id']}_{row['lesion_id']}",
        view=view,
        laterality=laterality,
        density=row.get("density", ""),
        acquisition="digital" if subset.startswith("D") else "film",
        pathology=label,
    )
