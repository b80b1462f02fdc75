"""Reader of a table that a hospital writes by hand; docs/data.md describes it for them.

Nothing that could name a patient goes further than here: rows are known by number, patients by random pseudonyms,
images and lesions by counting, and no value of the table is quoted in a reason.
"""

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mammo_dp.data.pseudonyms import pseudonyms
from mammo_dp.data.readers.regions import REGIONS, Unusable, existing, path_of, region_of
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Skipped, Split
from mammo_dp.data.tables import FAULT, Row, read_table
from mammo_dp.errors import UserError
from mammo_dp.files import cached_per_run, digest, sha256

TITLE = "the table (dataset.table, masses.csv unless set)"
REQUIRED = ("image", "patient_id", "label")
OPTIONAL = (*REGIONS, "lesion_id", "view", "laterality", "density", "split", "source", "abnormality")
LABELS = {"benign": False, "0": False, "malignant": True, "1": True}
SPLITS: dict[str, Split | Literal[""]] = {
    "train": "train", "training": "train", "val": "val", "validation": "val", "test": "test", "": "",
}  # fmt: skip
SIDES = {"l": "L", "left": "L", "r": "R", "right": "R", "": ""}
VIEWS = ("", "CC", "MLO", "ML", "LM", "XCC", "XCCL", "XCCM", "FB", "SIO", "LMO", "CV", "AT", "TAN")
DENSITIES = {"a": "1", "b": "2", "c": "3", "d": "4"} | {value: value for value in ("", "1", "2", "3", "4")}
KINDS = {"": "mass", "mass": "mass", "calc": "calc", "calcification": "calc"}
SOURCE = re.compile(r"[a-z0-9_]{0,40}")


def read(request: Request) -> Iterator[Lesion | Skipped]:
    """One record a row. Raises UserError if the table or the pseudonyms cannot be used or a patient has two splits."""
    assert request.table is not None  # the stage gives both to this reader
    assert request.pseudonyms is not None
    rows = _rows(request.table)
    _check_ids(rows)
    splits = _splits(rows)
    images: dict[Path, int] = {}  # first row of each
    lesions: dict[str, list[str]] = {}  # of each patient, in order of appearance
    records: dict[int, Lesion | Skipped] = {}
    with pseudonyms(request.pseudonyms) as pseudonym:
        for number, row in rows:
            try:
                lesion = _lesion(row, number, request.table, request.abnormality, pseudonym, images, lesions)
                records[number] = replace(lesion, split=splits.get(row["patient_id"], ""))
            except Unusable as fault:
                records[number] = Skipped(f"row {number}", str(fault))
            except _NotWanted as kind:
                records[number] = Skipped(f"row {number}", str(kind), on_purpose=True)
    _skip_repeats(rows, records)
    yield from records.values()


def _skip_repeats(rows: list[tuple[int, Row]], records: dict[int, Lesion | Skipped]) -> None:
    """Of rows of one patient, image and region, the first stays; none if their labels differ.

    No row decides about another patient's.
    """
    first: dict[tuple[str, ...], tuple[int, Lesion]] = {}
    for number, row in rows:
        lesion = records[number]
        if isinstance(lesion, Skipped):
            continue
        region = (" ".join(row[column].split()) for column in REGIONS)
        key = (lesion.patient, os.path.normpath(lesion.image_path), *region)
        earlier, other = first.setdefault(key, (number, lesion))
        if other.malignant != lesion.malignant:  # it is unknown which is right
            for one, two in ((number, earlier), (earlier, number)):
                records[one] = Skipped(f"row {one}", f"same image and region as row {two} with another label")
        elif earlier != number:
            records[number] = Skipped(f"row {number}", f"repeats row {earlier}")


@cached_per_run
def identity(table: Path) -> str:
    """Hash of the table's bytes and of size and time of each file that it names; 64 hex digits.

    Other files beside the table, the pseudonyms for one, do not count.
    """
    named = {row[key] for _, row in _rows(table) for key in ("image", "mask") if row[key]}
    stats = []
    for name in sorted(named):
        try:
            stat = path_of(table, name).stat()
            stats.append([name, stat.st_size, stat.st_mtime_ns])
        except (OSError, ValueError):
            stats.append([name])
    return digest([sha256(table), stats])


class _NotWanted(Exception):
    """A row that dataset.abnormality leaves out."""


def _rows(table: Path) -> list[tuple[int, Row]]:
    """The rows of a table. Raises UserError if it is none, or a column seems misspelt."""
    rows = read_table(table, title=TITLE, required=REQUIRED, optional=OPTIONAL)
    for _, row in rows:  # an accent may be written as one character or as two
        row["patient_id"] = unicodedata.normalize("NFC", row["patient_id"])
    absent = [name for name in OPTIONAL if not any(row[name] for _, row in rows)]
    for name in rows[0][1].keys() - {FAULT, *REQUIRED, *OPTIONAL}:
        for near in difflib.get_close_matches(name, absent, n=1, cutoff=0.7):
            raise UserError(
                f"{TITLE} has a column that is not known; rename it if {near} is meant, else take it out"
            )
    return rows


def _check_ids(rows: list[tuple[int, Row]]) -> None:
    """Raise UserError if two ids look like one patient: such a patient would be two, in training and in test."""
    first: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        patient = row["patient_id"]
        if not patient:
            continue
        plain = patient.casefold().removesuffix(".0").lstrip("0")
        earlier, other = first.setdefault(plain, (number, patient))
        if other != patient:
            raise UserError(
                f"rows {earlier} and {number} of {TITLE} name patients that differ only in capitals, leading zeros or "
                "a trailing .0; write each patient in one way"
            )


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
    number: int,
    table: Path,
    wanted: str,
    pseudonym: Callable[[str], str],
    images: dict[Path, int],
    lesions: dict[str, list[str]],
) -> Lesion:
    if row[FAULT]:
        raise Unusable(row[FAULT])
    if not row["patient_id"]:
        raise Unusable("patient_id is empty")
    kind = _one_of(KINDS, row, "abnormality", "mass or calc")
    if wanted not in (kind, "all"):
        raise _NotWanted(f"{kind} rows are left out by dataset.abnormality={wanted}")
    malignant = _one_of(LABELS, row, "label", "benign, malignant, 0 or 1")
    _one_of(SPLITS, row, "split", "train, val, test or empty")
    view = row["view"].upper()
    if view not in VIEWS:
        raise Unusable("view is none of the standard codes (CC, MLO, ML, LM, ...)")
    source = row["source"].lower()
    if not SOURCE.fullmatch(source):
        raise Unusable("source may hold a-z, 0-9 and _ only")
    image = existing(table, row["image"], "image")
    region = region_of(row, table)
    patient = pseudonym(row["patient_id"])
    return Lesion(
        row=f"row {number}",
        image_path=image,
        region=region,
        patient=patient,
        image=f"image_of_row_{images.setdefault(image, number)}",
        malignant=malignant,
        lesion=_numbered(row["lesion_id"], patient, lesions.setdefault(patient, [])),
        view=view,
        laterality=_one_of(SIDES, row, "laterality", "L, R or empty"),
        density=_one_of(DENSITIES, row, "density", "1 to 4, A to D or empty"),
        abnormality=kind,
        pathology="malignant" if malignant else "benign",
        source=source,
        key=hashlib.sha256(row["patient_id"].encode()).hexdigest(),
    )


def _numbered(name: str, patient: str, names: list[str]) -> str:
    """A lesion's id: the pseudonym and a number in place of its own name; empty if it has none."""
    if not name:
        return ""
    if name not in names:
        names.append(name)
    return f"{patient}_{names.index(name) + 1}"


def _one_of(words: dict, row: Row, column: str, allowed: str):  # type: ignore[no-untyped-def, type-arg]
    value = row[column].lower().removesuffix(".0")  # of spreadsheets
    if value not in words:
        raise Unusable(f"{column} is not {allowed}" if value else f"{column} is empty")
    return words[value]
