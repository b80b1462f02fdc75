"""Geometry: from a lesion's region in an image to a square patch (paper, Sec. 2). Knows nothing of data sets."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Box:
    """Half-open rectangle x0 <= x < x1, y0 <= y < y1 in source pixels; may reach outside the image."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0


def region_of_mask(mask: np.ndarray, *, largest_blob: bool) -> tuple[Box, np.ndarray]:
    """Bounding box of what a (height, width) uint8 mask of 0 and 1 marks, and an (n, 2) polygon of x, y around it.

    Masks can carry specks, so the largest connected blob is taken after a 3 px closing; or all that is marked, and
    then the polygon is its box. Raises ValueError if nothing is marked.
    """
    x, y, width, height = cv2.boundingRect(mask)
    box = Box(x, y, x + width, y + height)
    if not width:
        raise ValueError("mask marks nothing")
    if not largest_blob:
        return box, _corners(box)
    # Only what is marked is looked at, with the rim that closing needs.
    marked = cv2.copyMakeBorder(mask[y : y + height, x : x + width], 2, 2, 2, 2, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(marked, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    left, top, wide, high, _ = (int(value) for value in stats[largest])
    blob = (labels[top : top + high, left : left + wide] == largest).astype(np.uint8)
    contours, _ = cv2.findContours(blob, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    x, y = x + left - 2, y + top - 2
    return Box(x, y, x + wide, y + high), contours[0][:, 0] + (x, y)


def region_of_outline(
    points: np.ndarray, *, shape: tuple[int, int], must_fit: bool
) -> tuple[Box, np.ndarray]:
    """Bounding box of an (n, 2) polygon of x, y inside an image of `shape`, and the polygon.

    Raises ValueError if more than half of its box lies outside, or any of it by more than 1 px where it `must_fit`.
    """
    height, width = shape
    (x0, y0), (x1, y1) = (int(v) for v in points.min(axis=0)), (int(v) + 1 for v in points.max(axis=0))
    box = Box(max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    inside = max(box.width, 0) * max(box.height, 0)
    if inside < (x1 - x0) * (y1 - y0) / 2:
        raise ValueError(
            f"lesion lies outside the image of {width}x{height} px; another image or another scale?"
        )
    if must_fit and (min(x0, y0) < -1 or x1 > width + 1 or y1 > height + 1):
        raise ValueError(
            f"box reaches outside the image of {width}x{height} px; another image or another scale?"
        )
    return box, points


def _corners(box: Box) -> np.ndarray:
    right, bottom = box.x1 - 1, box.y1 - 1
    return np.array([[box.x0, box.y0], [right, box.y0], [right, bottom], [box.x0, bottom]])


def aspect_change(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Relative difference of the aspects of two shapes (height, width); 0 where one is the other's copy at a scale."""
    return abs((a[0] / a[1]) / (b[0] / b[1]) - 1)


def window(box: Box, *, shape: tuple[int, int], margin: int, min_side: int) -> Box:
    """The square to cut: side max(width, height, min_side) + 2 margin, centred on the box.

    Along an axis where it fits, it is shifted inside the image; where the image is smaller, it stays centred on the
    lesion and reaches outside (`cut` pads).
    """
    height, width = shape
    side = max(box.width, box.height, min_side) + 2 * margin

    def start(low: int, high: int, limit: int) -> int:
        centred = (low + high - side) // 2
        return min(max(centred, 0), limit - side) if side <= limit else centred

    x0, y0 = start(box.x0, box.x1, width), start(box.y0, box.y1, height)
    return Box(x0, y0, x0 + side, y0 + side)


def cut(image: np.ndarray, square: Box) -> np.ndarray:
    """The pixels of a window; what lies outside the image is padded by reflection, never by a constant."""
    height, width = image.shape
    inside = image[max(square.y0, 0) : min(square.y1, height), max(square.x0, 0) : min(square.x1, width)]
    over = (
        (max(-square.y0, 0), max(square.y1 - height, 0)),
        (max(-square.x0, 0), max(square.x1 - width, 0)),
    )
    return np.pad(inside, over, mode="symmetric") if any(map(any, over)) else inside


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Square resize: by area when shrinking, as in the paper; bilinear when a small window must grow."""
    shrinks = image.shape[0] >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def whole(image: np.ndarray, size: int) -> tuple[np.ndarray, Box]:
    """An image that is a patch already, at `size`, and its box: all of it. Raises ValueError if it is not square."""
    height, width = image.shape
    if height != width:
        raise ValueError(f"published patch of {height}x{width}, not square")
    return image if height == size else resize(image, size), Box(0, 0, width, height)
