"""A picture of random patches by split and class, each with its lesion's outline: what went wrong shows at a glance."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

COLUMNS = 8  # patches a row
GAP, LABEL = 4, 120  # px
INK, PAPER, LINE = (20, 20, 20), 255, (60, 200, 255)  # BGR


def contact_sheet(
    groups: Mapping[str, Sequence[int]],
    patches: Mapping[int, np.ndarray],
    outlines: Mapping[int, Sequence[Sequence[int]]],
) -> np.ndarray:
    """(height, width, 3) uint8 BGR image with one row a group and each patch's number in its corner.

    `groups`: label of a row and the numbers of its patches; `patches`: (size, size) uint8; `outlines`: (n, 2) of x, y
    in px of the patch.
    """
    size = next(iter(patches.values())).shape[0]
    step = size + GAP
    sheet = np.full((step * len(groups) + GAP, LABEL + step * COLUMNS + GAP, 3), PAPER, np.uint8)
    for row, (label, numbers) in enumerate(groups.items()):
        top = GAP + row * step
        for line, words in enumerate(label.split("\n")):
            place = (GAP + 4, top + 22 + 20 * line)
            cv2.putText(sheet, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
        for column, number in enumerate(numbers[:COLUMNS]):
            left = LABEL + column * step
            tile = _outlined(patches[number], outlines[number])
            cv2.putText(
                tile, f"{number:05d}", (3, size - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.3, LINE, 1, cv2.LINE_AA
            )
            sheet[top : top + size, left : left + size] = tile
    return sheet


def chosen(numbers: Sequence[int], *, label: str) -> list[int]:
    """Up to COLUMNS of the numbers, at random but the same in every run, in order."""
    rng = np.random.default_rng(list(label.encode()))
    return sorted(int(n) for n in rng.choice(numbers, size=min(COLUMNS, len(numbers)), replace=False))


def _outlined(patch: np.ndarray, outline: Sequence[Sequence[int]]) -> np.ndarray:
    coloured = cv2.cvtColor(patch, cv2.COLOR_GRAY2BGR)
    if len(outline):
        cv2.polylines(coloured, [np.array(outline, np.int32)], True, LINE, 1, cv2.LINE_AA)
    return coloured
