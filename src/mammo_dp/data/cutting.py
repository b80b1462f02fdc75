"""All patches of one image: what a worker process does. Imports no torch and no pandas, holds one image at a time."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mammo_dp.data import patches
from mammo_dp.data.images import Grey, read_image, read_mask, to_uint8, why_unreadable
from mammo_dp.data.patches import Box
from mammo_dp.data.records import MaskFile, Region, WholeImage

THUMBNAIL = 32  # px, side of the small copy by which copies of an image are found
OUTLINE_PRECISION = 2.0  # px of the source, of outlines that are only looked at
SMALLEST = 5  # px, of a lesion's box that raises no eyebrow
DAMAGE = (ValueError, OSError, MemoryError, cv2.error)  # what a file can do to us


@dataclass(frozen=True)
class Geometry:
    """How a patch is cut (paper, Sec. 2)."""

    box: str  # contour or mask
    margin: int  # px
    min_side: int  # px
    size: int  # px


@dataclass(frozen=True)
class Task:
    """One image and its lesions, by number."""

    image_path: Path
    lesions: tuple[tuple[int, Region], ...]
    geometry: Geometry


@dataclass(frozen=True)
class Place:
    """Where a patch was cut: the lesion's box in source px and its (n, 2) outline in patch px."""

    box: Box
    outline: list[list[int]]
    note: str = ""


@dataclass(frozen=True)
class CutImage:
    """What came of a task: for each lesion's number the place of its patch, or the reason why there is none."""

    outcomes: dict[int, Place | str]
    pngs: dict[int, bytes] = field(default_factory=dict)  # the patches, encoded
    sha256: str = ""  # of the image file; empty if it could not be read
    shape: tuple[int, int] = (0, 0)
    thumbnail: bytes = b""  # THUMBNAIL x THUMBNAIL uint8


def cut_image(task: Task) -> CutImage:
    """Read the image once and cut each lesion. A damaged file or mask is a reason, never an exception."""
    try:
        image = read_image(task.image_path)
    except Exception as error:
        return CutImage({number: _why(error) for number, _ in task.lesions})
    outcomes: dict[int, Place | str] = {}
    pngs = {}
    for number, region in task.lesions:
        try:
            patch, outcomes[number] = _cut(image, region, task.geometry)
            pngs[number] = cv2.imencode(".png", patch)[1].tobytes()
        except Exception as error:
            outcomes[number] = _why(error)
    return CutImage(outcomes, pngs, image.sha256, image.shape, thumbnail(image))


def _why(error: Exception) -> str:
    """A reason for what a file does to us; a fault of our own shows as one, and does not stop the others."""
    if isinstance(error, DAMAGE):
        return why_unreadable(error)
    return f"unexpected {type(error).__name__} over this image; please report it"


def _cut(image: Grey, region: Region, geometry: Geometry) -> tuple[np.ndarray, Place]:
    if isinstance(region, WholeImage):
        patch, box = patches.whole(image.eight_bit(image.stored), geometry.size)
        return patch, Place(box, [])
    note = ""
    if isinstance(region, MaskFile):
        mask, note = _mask(region, image.shape)
        box, outline = patches.region_of_mask(mask, largest_blob=geometry.box == "contour")
    else:
        box, outline = patches.region_of_outline(region.points, shape=image.shape, must_fit=region.must_fit)
    if min(box.width, box.height) < SMALLEST or 2 * max(box.width, box.height) > max(image.shape):
        note = note or "lesion smaller than 5 px, or larger than half of the image"
    square = patches.window(box, shape=image.shape, margin=geometry.margin, min_side=geometry.min_side)
    patch = patches.resize(image.eight_bit(patches.cut(image.stored, square)), geometry.size)
    if patch.min() == patch.max():
        raise ValueError("patch of a single grey value; the image is empty there")
    simple = cv2.approxPolyDP(outline.astype(np.int32), OUTLINE_PRECISION, closed=True)[:, 0]
    scaled = (simple - (square.x0, square.y0)) * (geometry.size / square.width)
    return patch, Place(box, np.rint(scaled).astype(int).tolist(), note)


def _mask(region: MaskFile, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """The mask among the candidates: the only one that lies on the image and holds no grey values."""
    found, reasons = [], []
    for path in region.candidates:
        try:
            found.append(read_mask(path, shape=shape))
        except DAMAGE as error:
            reasons.append(why_unreadable(error))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{len(found)} files look like the mask of this lesion")
    raise ValueError("; ".join(dict.fromkeys(reasons)))


def thumbnail(image: Grey) -> bytes:
    """A small copy, stretched to all grey values, so that the depth of the file does not tell copies apart."""
    step = max(1, min(image.shape) // (16 * THUMBNAIL))
    sample = np.ascontiguousarray(image.stored[::step, ::step])
    small = cv2.resize(sample, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return to_uint8(image.eight_bit(small)).tobytes()
