"""Reader of a table that a hospital writes by hand; docs/data.md describes it for them.

Nothing that could name a patient goes further than here: rows are known by number, patients by random pseudonyms,
images and lesions by counting, and no value of the table is quoted in a reason.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from mammo_dp.artifacts import digest, sha256
from mammo_dp.data.pseudonyms import pseudonyms
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, MaskFile, Outline, Region, Skipped
from mammo_dp.data.tables import FAULT, Row, read_table
from mammo_dp.errors import UserError

TITLE = "the table (dataset.table)"
REQUIRED = ("image", "patient_id", "label")
REGIONS = ("mask", "box", "circle", "polygon")
OPTIONAL = (*REGIONS, "lesion_id", "view", "laterality", "density", "split", "source", "abnormality")
LABELS = {"benign": False, "0": False, "malignant": True, "1": True}
Split = Literal["train", "val", "test", ""]
SPLITS: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test", "": ""}
SIDES = {"l": "L", "left": "L", "r": "R", "right": "R", "": ""}
VIEWS = ("", "CC", "MLO", "ML", "LM", "XCC", "XCCL", "XCCM", "FB", "SIO", "LMO", "CV", "AT", "TAN")
DENSITIES = {"a": "1", "b": "2", "c": "3", "d": "4"} | {value: value for value in ("", "1", "2", "3", "4")}
KINDS = {"": "mass", "mass": "mass", "calc": "calc", "calcification": "calc"}
SOURCE = re.compile(r"[a-z0-9_]{0,40}")
LARGEST = 1_000_000  # px: no image is larger, so no position is


class Fault(ValueError):
    """What is wrong with one row."""


def read(request: Request) -> Iterator[Lesion | Skipped]:
    """One record a row. Raises UserError if the table or the pseudonyms cannot be used or a patient has two splits."""
    assert request.table is not None
    assert request.pseudonyms is not None
    rows = _rows(request.table)
    splits = _splits(rows)
    numbering = _Numbering()
    first: dict[tuple[str, ...], tuple[int, Lesion]] = {}
    records: dict[int, Lesion | Skipped] = {}
    with pseudonyms(request.pseudonyms) as pseudonym:
        for number, row in rows:
            where = f"row {number}"
            try:
                lesion = _lesion(row, where, request, pseudonym, numbering, splits)
            except Fault as fault:
                records[number] = Skipped(where, str(fault))
                continue
            except _NotWanted as kind:
                records[number] = Skipped(where, str(kind), on_purpose=True)
                continue
            records[number] = lesion
            earlier, other = first.setdefault(
                tuple(row[key] for key in ("image", *REGIONS)), (number, lesion)
            )
            if other.malignant != lesion.malignant:  # nobody knows which is right
                for one, two in ((number, earlier), (earlier, number)):
                    records[one] = Skipped(
                        f"row {one}", f"same image and region as row {two} with another label"
                    )
            elif earlier != number:
                records[number] = Skipped(where, f"repeats row {earlier}")
    yield from records.values()


def identity(table: Path) -> str:
    """Hash of the table's bytes and of size and time of each file that it names; 64 hex digits.

    Other files beside the table, the pseudonyms for one, do not count.
    """
    named = {row[key] for _, row in _rows(table) for key in ("image", "mask") if row[key]}
    stats = []
    for name in sorted(named):
        try:
            stat = _path(table, name).stat()
            stats.append([name, stat.st_size, stat.st_mtime_ns])
        except (OSError, ValueError):
            stats.append([name])
    return digest([sha256(table), stats])


class _NotWanted(Exception):
    """A row that dataset.abnormality leaves out."""


class _Numbering:
    """Numbers for things whose own names may say too much."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, ...], int] = {}
        self.counts: dict[str, int] = {}

    def of(self, kind: str, *name: str) -> int:
        """1, 2, 3, ... within a kind, the same for the same name."""
        if (kind, *name) not in self.numbers:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.numbers[(kind, *name)] = self.counts[kind]
        return self.numbers[(kind, *name)]


def _rows(table: Path) -> list[tuple[int, Row]]:
    return read_table(table, title=TITLE, required=REQUIRED, optional=OPTIONAL)


def _path(table: Path, name: str) -> Path:
    """Paths in the table are absolute, or relative to it, with either slash."""
    return table.parent / (name if Path(name).is_absolute() else name.replace("\\", "/"))


def _splits(rows: list[tuple[int, Row]]) -> dict[str, Split]:
    """Patient -> split, for patients of whom any row states it. Raises UserError if two rows state two."""
    stated: dict[str, tuple[int, Split]] = {}
    for number, row in rows:
        split = SPLITS.get(row["split"].lower(), "")
        if not split or not row["patient_id"]:
            continue
        earlier, other = stated.setdefault(row["patient_id"], (number, split))
        if other != split:
            raise UserError(
                f"rows {earlier} and {number} of {TITLE} put one patient into {other} and {split}, and results on "
                f"{split} would be worthless; give each patient one split"
            )
    return {patient: split for patient, (_, split) in stated.items()}


def _lesion(
    row: Row,
    where: str,
    request: Request,
    pseudonym: Callable[[str], str],
    numbering: _Numbering,
    splits: dict[str, Split],
) -> Lesion:
    if row[FAULT]:
        raise Fault(row[FAULT])
    if not row["patient_id"]:
        raise Fault("patient_id is empty")
    kind = _one_of(KINDS, row, "abnormality", "mass or calc")
    if request.abnormality not in (kind, "all"):
        raise _NotWanted(f"{kind} rows are left out by dataset.abnormality={request.abnormality}")
    malignant = _one_of(LABELS, row, "label", "benign or malignant")
    _one_of(SPLITS, row, "split", "train, val, test or empty")
    view = row["view"].upper()
    if view not in VIEWS:
        raise Fault("view is none of the standard codes (CC, MLO, ML, LM, ...)")
    source = row["source"].lower()
    if not SOURCE.fullmatch(source):
        raise Fault("source may hold letters, digits and _ only")
    assert request.table is not None
    image = _existing(request.table, row["image"], "image")
    region = _region(row, request.table)
    patient = pseudonym(row["patient_id"])
    lesion = numbering.of(patient, row["lesion_id"]) if row["lesion_id"] else ""
    return Lesion(
        row=where,
        image_path=image,
        region=region,
        patient=patient,
        image=f"image_{numbering.of('image', str(image)):06d}",
        malignant=malignant,
        split=splits.get(row["patient_id"], ""),
        lesion=f"{patient}_{lesion}" if lesion else "",
        view=view,
        laterality=_one_of(SIDES, row, "laterality", "L, R or empty"),
        density=_one_of(DENSITIES, row, "density", "1 to 4, A to D or empty"),
        abnormality=kind,
        pathology="malignant" if malignant else "benign",
        source=source,
    )


def _one_of(words: dict, row: Row, column: str, allowed: str):  # type: ignore[no-untyped-def, type-arg]
    value = row[column].lower()
    if value not in words:
        raise Fault(f"{column} is not {allowed}")
    return words[value]


def _existing(table: Path, name: str, column: str) -> Path:
    if not name:
        raise Fault(f"{column} is empty")
    path = _path(table, name)
    try:
        found = path.is_file()
    except (OSError, ValueError):
        raise Fault(f"{column} is no usable file name") from None
    if not found:
        raise Fault(f"{column} file is missing")
    return path


def _region(row: Row, table: Path) -> Region:
    given = [name for name in REGIONS if row[name]]
    if len(given) != 1:
        raise Fault(f"{len(given)} of mask, box, circle and polygon are filled, 1 needed")
    (kind,) = given
    if kind == "mask":
        return MaskFile((_existing(table, row["mask"], "mask"),))
    values = _numbers(row[kind], kind)
    if kind == "box":
        return _box(values)
    if kind == "circle":
        return _circle(values)
    if len(values) < 6 or len(values) % 2:
        raise Fault("polygon is not at least 3 pairs of x and y")
    return Outline(np.rint(np.array(values).reshape(-1, 2)).astype(np.int64))


def _numbers(text: str, kind: str) -> list[float]:
    try:
        values = [float(value) for value in re.split(r"[\s,;]+", text.strip(" ()[]"))]
    except ValueError:
        raise Fault(f"{kind} holds something that is not a number") from None
    if not all(math.isfinite(value) and abs(value) <= LARGEST for value in values):
        raise Fault(f"{kind} holds a number that is no pixel position")
    return values


def _box(values: list[float]) -> Outline:
    """x0 y0 x1 y1, the last two outside the box."""
    if len(values) != 4:
        raise Fault(f"box of {len(values)} numbers; x0 y0 x1 y1 needed")
    x0, y0, x1, y1 = (round(value) for value in values)
    if min(x0, y0) < 0:
        raise Fault("box with a negative coordinate; x and y count from the top left corner")
    if x1 <= x0 or y1 <= y0:
        raise Fault("box without an extent; x0 y0 x1 y1 needed, with x1 > x0 and y1 > y0")
    return Outline(np.array([[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]), must_fit=True)


def _circle(values: list[float]) -> Outline:
    """x y radius."""
    if len(values) != 3 or values[2] <= 0:
        raise Fault("circle is not x y radius with a positive radius")
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    points = np.array(values[:2]) + values[2] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Outline(np.rint(points).astype(np.int64))
