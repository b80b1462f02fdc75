"""Copies of one lesion: the same picture, and outlines in the same place of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mammo_dp.data.patches import Box

SAME_PICTURE = 2  # grey levels of 255 by which no pixel of two thumbnails may differ more
SAME_LESION = 0.5  # intersection over union of the boxes, from here on
SAME_ASPECT = 0.01


@dataclass(frozen=True)
class Seen:
    """What is compared of a lesion. `thumbnail`: uint8 values; `shape`: of its image, px; `box`: in px of its image."""

    number: int
    group: str  # only lesions of one group are compared
    thumbnail: bytes
    shape: tuple[int, int]
    box: Box
    malignant: bool


def clusters(lesions: Sequence[Seen]) -> list[list[Seen]]:
    """Groups of two or more copies of one lesion, each in order of its numbers, in order of their first.

    Pictures are compared at 32x32 px, so that another file format, depth or scale of the same film still counts as
    the same; two outlines of one lesion by two readers, too.
    """
    found = []
    for group in dict.fromkeys(lesion.group for lesion in lesions):
        members = [lesion for lesion in lesions if lesion.group == group]
        first, second = _pairs(members)
        graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(members), len(members)))
        _, labels = connected_components(graph, directed=False)
        for label in np.flatnonzero(np.bincount(labels) > 1):
            found.append([members[i] for i in np.flatnonzero(labels == label)])
    return sorted(found, key=lambda cluster: cluster[0].number)


def contradicts(cluster: Sequence[Seen]) -> bool:
    """Whether copies of one lesion carry both labels."""
    return len({lesion.malignant for lesion in cluster}) > 1


def dropped(
    cluster: Sequence[Seen], policy: Literal["keep", "drop", "drop_conflicts"]
) -> tuple[Sequence[Seen], str]:
    """The members that leave the data, and why: keep: none; drop: all but the first; drop_conflicts: as drop, and all
    of a cluster whose labels contradict each other."""
    if policy == "keep":
        return [], ""
    if policy == "drop_conflicts" and contradicts(cluster):
        return cluster, "copies of this lesion carry both labels"
    return cluster[1:], "copy of an earlier row's lesion"


def _pairs(members: list[Seen]) -> tuple[np.ndarray, np.ndarray]:
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
            if _same_aspect(a.shape, b.shape) and _overlap(a, b) >= SAME_LESION:
                first.append(order[i])
                second.append(order[j])
    return np.array(first, dtype=int), np.array(second, dtype=int)


def _same_aspect(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) <= SAME_ASPECT


def _overlap(a: Seen, b: Seen) -> float:
    """Intersection over union of two boxes, each as fractions of its own image."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (_relative(lesion) for lesion in (a, b))
    shared = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


def _relative(lesion: Seen) -> tuple[float, float, float, float]:
    (height, width), box = lesion.shape, lesion.box
    return box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height
