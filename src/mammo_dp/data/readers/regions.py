"""Where a row of a custom table says that its lesion is. Messages quote nothing of the row."""

import math
import re
from pathlib import Path

import numpy as np

from mammo_dp.data.records import MaskFile, Outline, Region
from mammo_dp.data.tables import Row

REGIONS = ("mask", "box", "circle", "polygon")
LARGEST = 1_000_000  # px: no image is larger, so no position is


class Unusable(ValueError):
    """What is wrong with one row."""


def path_of(table: Path, name: str) -> Path:
    """Paths in the table are absolute, or relative to it, with either slash."""
    return table.parent / (name if Path(name).is_absolute() else name.replace("\\", "/"))


def is_there(path: Path) -> bool:
    """Whether a file exists; False also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def existing(table: Path, name: str, column: str) -> Path:
    """The file that a column names. Raises Unusable if there is none."""
    if not name:
        raise Unusable(f"{column} is empty")
    path = path_of(table, name)
    if not is_there(path):
        raise Unusable(f"{column} file is missing; paths are relative to the table, and capitals count")
    return path


def region_of(row: Row, table: Path) -> Region:
    """The one region that a row gives. Raises Unusable if there is none, several, or one without sense."""
    given = [name for name in REGIONS if row[name]]
    if len(given) != 1:
        raise Unusable(f"{len(given)} of mask, box, circle and polygon are filled, 1 needed")
    (kind,) = given
    if kind == "mask":
        return MaskFile((existing(table, row["mask"], "mask"),))
    return {"box": _box, "circle": _circle, "polygon": _polygon}[kind](_numbers(row[kind], kind))


def _numbers(text: str, kind: str) -> list[float]:
    if re.search(r"\d,\d", text) and re.search(r"[\s;]", text):
        raise Unusable(f"{kind} with decimal commas; write points, or blanks between the numbers")
    try:
        values = [float(value) for value in re.split(r"[\s,;]+", text.strip(" ()[]"))]
    except ValueError:
        raise Unusable(f"{kind} holds something that is not a number") from None
    if not all(math.isfinite(value) and abs(value) <= LARGEST for value in values):
        raise Unusable(f"{kind} holds a number that is no pixel position")
    return values


def _box(values: list[float]) -> Outline:
    """x0 y0 x1 y1, the last two outside the box."""
    if len(values) != 4:
        raise Unusable(f"box of {len(values)} numbers; x0 y0 x1 y1 needed, with points as decimal marks")
    if max(values) <= 1:
        raise Unusable("box in fractions of the image; pixels are needed")
    x0, y0, x1, y1 = (round(value) for value in values)
    if min(x0, y0) < 0:
        raise Unusable("box with a negative coordinate; x and y count from the top left corner")
    if x1 <= x0 or y1 <= y0:
        raise Unusable(
            "box without an extent; x0 y0 x1 y1 needed (not width and height), with x1 > x0 and y1 > y0"
        )
    return Outline(np.array([[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]), must_fit=True)


def _circle(values: list[float]) -> Outline:
    """x y radius."""
    if len(values) != 3 or values[2] <= 0:
        raise Unusable("circle is not x y radius with a positive radius")
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    points = np.array(values[:2]) + values[2] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Outline(np.rint(points).astype(np.int64))


def _polygon(values: list[float]) -> Outline:
    """x1 y1 x2 y2 x3 y3 ..."""
    if len(values) < 6 or len(values) % 2:
        raise Unusable("polygon is not at least 3 pairs of x and y")
    return Outline(np.rint(np.array(values).reshape(-1, 2)).astype(np.int64))
