"""Copies of one lesion: the same picture, and outlines in the same place of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mammo_dp.config.schema import Duplicates
from mammo_dp.data.cutting import THUMBNAIL
from mammo_dp.data.patches import Box, aspect_change

SAME_PICTURE = 2  # grey levels of 255 by which no pixel of two thumbnails may differ more
SAME_LESION = 0.5  # intersection over union of the boxes, from here on
ASPECT_TOLERANCE = 0.01  # relative


@dataclass(frozen=True)
class Cut:
    """What is compared of a lesion with a patch. `shape`: of its image, px; `box`: in px of its image."""

    number: int
    thumbnail: bytes  # uint8 values
    shape: tuple[int, int]
    box: Box
    malignant: bool


def clusters(cuts: Sequence[Cut]) -> list[list[Cut]]:
    """Groups of two or more copies of one lesion, each in order of its numbers, in order of their first.

    Pictures are compared as thumbnails of 32x32 px that are stretched to all grey values, so that another file
    format, depth or scale of the same film still counts as the same; two outlines of one lesion by two readers, too.
    The three limits were set by what they mean, not tried on real copies.
    """
    if not cuts:
        return []
    first, second = _pairs(list(cuts))
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(cuts), len(cuts)))
    labels = np.asarray(connected_components(graph, directed=False)[1])
    several = np.flatnonzero(np.bincount(labels) > 1)
    found = [[cuts[i] for i in np.flatnonzero(labels == label).tolist()] for label in several]
    return sorted(found, key=lambda cluster: cluster[0].number)


def contradicts(cluster: Sequence[Cut]) -> bool:
    """Whether copies of one lesion carry both labels."""
    return len({cut.malignant for cut in cluster}) > 1


def dropped(cluster: Sequence[Cut], policy: Duplicates) -> tuple[Sequence[Cut], str]:
    """The members that leave the data, and why: keep: none; drop: all but the first; drop_conflicts: as drop, and all
    of a cluster whose labels contradict each other."""
    if policy == "keep":
        return [], ""
    if policy == "drop_conflicts" and contradicts(cluster):
        return cluster, "copies of this lesion carry both labels"
    return cluster[1:], "copy of an earlier row's lesion"


def _pairs(members: list[Cut]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all pairs of copies."""
    order = np.argsort([np.frombuffer(m.thumbnail, np.uint8).mean() for m in members], kind="stable")
    pixels = np.stack([np.frombuffer(members[i].thumbnail, np.uint8) for i in order]).astype(np.int16)
    means = pixels.mean(axis=1)
    first, second = [], []
    for i in range(len(order)):
        # pictures that differ by no more than that anywhere differ by no more in the mean
        end = int(np.searchsorted(means, means[i] + SAME_PICTURE + 1e-6, side="right"))
        alike = np.flatnonzero((np.abs(pixels[i + 1 : end] - pixels[i]) <= SAME_PICTURE).all(axis=1)) + i + 1
        for j in alike:
            a, b = members[order[i]], members[order[j]]
            if aspect_change(a.shape, b.shape) <= ASPECT_TOLERANCE and _overlap(a, b) >= SAME_LESION:
                first.append(order[i])
                second.append(order[j])
    return np.array(first, dtype=int), np.array(second, dtype=int)


def _overlap(a: Cut, b: Cut) -> float:
    """Intersection over union of two boxes, each as fractions of its own image."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (_relative(cut) for cut in (a, b))
    shared = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


def _relative(cut: Cut) -> tuple[float, float, float, float]:
    (height, width), box = cut.shape, cut.box
    return box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height


# --- the same patch in another set ----------------------------------------------------------------------------------

# correlation, from here on: pairs of different people's patches have at most .975, copies as JPEG at least .99
SAME_PATCH = 0.985


def copied_patches(patches: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (patch, other) where a patch is the other one: also turned, mirrored, inverted, brighter, lossy compressed.

    (n, s, s) and (m, t, t) uint8. A copy that was cut a few px elsewhere, or whose contrast was changed from place to
    place, is not found.
    """
    if not len(patches) or not len(others):
        return []
    own = _standardised(patches)
    found: set[tuple[int, int]] = set()
    for turned in _turned(others):
        alike = np.abs(own @ _standardised(turned).T) >= SAME_PATCH
        found.update(zip(*(numbers.tolist() for numbers in np.nonzero(alike)), strict=True))
    return sorted(found)


def same_pictures(own: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of whole images with equal thumbnails (as for `clusters`), also turned. (n, 1024) and (m, 1024) uint8."""
    own, means = own.astype(np.int16), own.mean(axis=1)
    found: set[tuple[int, int]] = set()
    for turned in _turned(others.reshape(-1, THUMBNAIL, THUMBNAIL)):
        for number, picture in enumerate(turned.reshape(-1, THUMBNAIL**2).astype(np.int16)):
            near = np.flatnonzero(np.abs(means - picture.mean()) <= SAME_PICTURE)
            if picture.min() == picture.max():
                continue  # an empty image
            alike = (np.abs(own[near] - picture) <= SAME_PICTURE).all(axis=1)
            found.update((int(first), number) for first in near[alike])
    return sorted(found)


def _turned(images: np.ndarray) -> list[np.ndarray]:
    """(n, s, s) images in their eight positions."""
    upright = (images, images.transpose(0, 2, 1))
    return [x[:, rows, columns] for x in upright for rows in _WAYS for columns in _WAYS]


_WAYS = (slice(None), slice(None, None, -1))


def _standardised(patches: np.ndarray) -> np.ndarray:
    """(n, THUMBNAIL^2) float32 thumbnails without their mean, of unit length: inner products are correlations."""
    small = [
        cv2.resize(np.ascontiguousarray(p), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        for p in patches
    ]
    flat = np.stack(small).reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
