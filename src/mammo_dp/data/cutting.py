"""All patches of one image: what a worker process does. Imports no torch and no pandas, holds one image at a time."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mammo_dp.data import patches
from mammo_dp.data.images import Grey, read_image, read_mask, why_unreadable
from mammo_dp.data.patches import Box
from mammo_dp.data.records import MaskFile, Region, WholeImage

THUMBNAIL = 32  # px, side of the small copy by which copies of an image are found
OUTLINE_PRECISION = 2.0  # px of the source, of outlines that are only looked at


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
class Cut:
    """A patch: its PNG, the lesion's box in source px and the lesion's (n, 2) outline in patch px."""

    png: bytes
    box: Box
    outline: list[list[int]]
    note: str


@dataclass(frozen=True)
class CutImage:
    """What came of a task: for each lesion's number its patch, or the reason why there is none."""

    outcomes: dict[int, Cut | str]
    sha256: str = ""  # of the image file; empty if it could not be read
    shape: tuple[int, int] = (0, 0)
    thumbnail: bytes = b""  # THUMBNAIL x THUMBNAIL uint8


def cut_image(task: Task) -> CutImage:
    """Read the image once and cut each lesion. A damaged file or mask is a reason, never an exception."""
    try:
        image = read_image(task.image_path)
    except (ValueError, OSError, MemoryError) as error:
        return CutImage({number: why_unreadable(error) for number, _ in task.lesions})
    outcomes: dict[int, Cut | str] = {}
    for number, region in task.lesions:
        try:
            outcomes[number] = _cut(image, region, task.geometry)
        except (ValueError, OSError, MemoryError) as error:
            outcomes[number] = why_unreadable(error)
    return CutImage(outcomes, image.sha256, image.shape, _thumbnail(image))


def _cut(image: Grey, region: Region, geometry: Geometry) -> Cut:
    height, width = image.shape
    note = ""
    if isinstance(region, WholeImage):
        patch, box = patches.whole(image.eight_bit(image.stored), geometry.size)
        outline = np.empty((0, 2))
        square = box
    else:
        if isinstance(region, MaskFile):
            mask, note = _mask(region, (height, width))
            box, outline = patches.region_of_mask(mask, largest_blob=geometry.box == "contour")
        else:
            box, outline = patches.region_of_outline(
                region.points, shape=(height, width), must_fit=region.must_fit
            )
        square = patches.window(
            box, shape=(height, width), margin=geometry.margin, min_side=geometry.min_side
        )
        patch = patches.resize(image.eight_bit(patches.cut(image.stored, square)), geometry.size)
        if patch.min() == patch.max():
            raise ValueError("patch of a single grey value; the image is empty there")
        outline = cv2.approxPolyDP(outline.astype(np.int32), OUTLINE_PRECISION, closed=True)[:, 0]
    scaled = (outline - (square.x0, square.y0)) * (geometry.size / square.width)
    png = cv2.imencode(".png", patch)[1].tobytes()
    return Cut(png, box, np.rint(scaled).astype(int).tolist(), note)


def _mask(region: MaskFile, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """The mask among the candidates: the only one that lies on the image and holds no grey values."""
    found, reasons = [], []
    for path in region.candidates:
        try:
            found.append(read_mask(path, shape=shape))
        except (ValueError, OSError) as error:
            reasons.append(why_unreadable(error))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{len(found)} files look like the mask of this lesion")
    raise ValueError("; ".join(dict.fromkeys(reasons)))


def _thumbnail(image: Grey) -> bytes:
    step = max(1, min(image.shape) // (16 * THUMBNAIL))  # 16 x 16 and more samples a pixel are enough
    small = cv2.resize(
        np.ascontiguousarray(image.stored[::step, ::step]),
        (THUMBNAIL, THUMBNAIL),
        interpolation=cv2.INTER_AREA,
    )
    return image.eight_bit(small).tobytes()
