"""Pictures made of patches: rows with words at their left."""

from collections.abc import Sequence

import cv2
import numpy as np

GAP, LABEL, LINE = 4, 150, 18  # px
INK, PAPER = 20, 255


def mosaic(rows: Sequence[tuple[str, Sequence[np.ndarray]]], *, heading: str = "") -> np.ndarray:
    """(height, width) uint8 with one row for each (words, patches); patches are (size, size) uint8.

    Each line of the words is a line beside the row.
    """
    size = rows[0][1][0].shape[0]
    step, top = size + GAP, (2 * LINE if heading else 0) + GAP
    width = LABEL + step * max(len(patches) for _, patches in rows) + GAP
    sheet = np.full((top + step * len(rows), width), PAPER, np.uint8)
    _write(sheet, heading, GAP, LINE)
    for number, (words, patches) in enumerate(rows):
        y = top + number * step
        for line, text in enumerate(words.split("\n")):
            _write(sheet, text, GAP, y + LINE * (line + 1))
        for column, patch in enumerate(patches):
            x = LABEL + column * step
            sheet[y : y + size, x : x + size] = patch
    return sheet


def _write(sheet: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
