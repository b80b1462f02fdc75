"""Images to be scored: a folder of patches, or a table that names images and where the lesion is."""

from dataclasses import dataclass
from pathlib import Path

from mammo_dp.data.cutting import Geometry, Task
from mammo_dp.data.readers.regions import REGIONS, Unusable, existing, is_there, path_of, region_of
from mammo_dp.data.records import WholeImage
from mammo_dp.data.tables import FAULT, read_table
from mammo_dp.errors import UserError
from mammo_dp.files import digest, sha256, tree_identity

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".dcm", ".pgm")
TITLE = "the table of predict.input"


@dataclass(frozen=True)
class Wanted:
    """A score that is asked for. The number in its `task` is its place in the list; without one there is a `reason`."""

    row: str  # "row 3" of a table, "file 3" of a folder in the order of its sorted names
    name: str
    task: Task | None
    reason: str = ""


def wanted(path: Path, geometry: Geometry) -> list[Wanted]:
    """What to score, in order. Raises UserError if there is nothing there."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise UserError(
                f"predict.input holds no image ({', '.join(SUFFIXES)}); give a folder of patches or a table"
            )
        return [
            Wanted(
                f"file {number}",
                file.relative_to(path).as_posix(),
                Task(file, ((number - 1, WholeImage()),), geometry),
            )
            for number, file in enumerate(files, start=1)
        ]
    if not path.is_file():
        raise UserError("predict.input does not exist; give a folder of patches or a table (CSV)")
    found: list[Wanted] = []
    for number, row in read_table(path, title=TITLE, required=("image",), optional=REGIONS):
        name, reason, task = row["image"], row[FAULT], None
        if not reason:
            try:
                region = region_of(row, path)
                task = Task(existing(path, name, "image"), ((len(found), region),), geometry)
            except Unusable as fault:
                reason = str(fault)
        found.append(Wanted(f"row {number}", name, task, reason))
    return found


def identity(path: Path) -> str:
    """Hash of what is to be scored: names, sizes and times of a folder's files, or the table and what it names."""
    if path.is_dir():
        try:
            return tree_identity(path)
        except FileNotFoundError:
            raise UserError(
                "predict.input holds no file; give a folder of patches or a table (CSV)"
            ) from None
    if not path.is_file():
        raise UserError("predict.input does not exist; give a folder of patches or a table (CSV)")
    stats: list[list[object]] = []
    for _, row in read_table(path, title=TITLE, required=("image",), optional=REGIONS):
        for name in (row["image"], row.get("mask", "")):
            file = path_of(path, name)
            if name and is_there(file):
                stats.append([name, file.stat().st_size, file.stat().st_mtime_ns])
    return digest([sha256(path), stats])
