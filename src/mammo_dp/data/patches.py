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


def box_of_mask(mask: np.ndarray, *, largest_blob: bool) -> Box:
    """Bounding box of what a (height, width) bool mask marks: its largest connected blob, or all of it.

    Masks can carry specks, so the largest blob is taken after a 3 px closing. Raises ValueError if nothing is marked.
    """
    if not mask.any():
        raise ValueError("mask marks nothing")
    if largest_blob:
        closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
        x, y, width, height, _ = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
        return Box(int(x), int(y), int(x + width), int(y + height))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def box_of_outline(points: np.ndarray, *, shape: tuple[int, int]) -> Box:
    """Bounding box of an (n, 2) polygon of x, y inside an image of `shape`. Raises ValueError if it lies outside."""
    height, width = shape
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0) + 1
    box = Box(max(int(x0), 0), max(int(y0), 0), min(int(x1), width), min(int(y1), height))
    if box.width <= 0 or box.height <= 0:
        raise ValueError("outline lies outside the image")
    return box


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
