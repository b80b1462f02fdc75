"""Fig. 2: random real and synthetic masses by class above the table of distances, as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.transforms import Bbox

from mammo_dp.reporting.svg import plt

PAPER_DATASETS = ("cbis_bcdr", "cbis_ddsm", "release")
CELL, LINE = 0.9, 0.2  # inches of a patch, of a line of the table


def figure2(
    path: Path,
    masses: Sequence[tuple[str, Sequence[np.ndarray]]],
    table: Sequence[Mapping[str, str]],
    *,
    note: str,
) -> None:
    """masses: rows of (words, (size, size) uint8 patches); table: rows of the same columns; `note` is printed below."""
    columns = max(len(patches) for _, patches in masses)
    below = LINE * (len(table) + 3)
    figure = plt.figure(figsize=(CELL * columns + 1.4, CELL * len(masses) + below))
    grid = figure.add_gridspec(
        len(masses) + 1, columns, height_ratios=[CELL] * len(masses) + [below], wspace=0.04, hspace=0.06, left=0.14,
        right=0.99, top=0.99, bottom=0.01,
    )  # fmt: skip
    for row, (words, patches) in enumerate(masses):
        for column, patch in enumerate(patches):
            panel = figure.add_subplot(grid[row, column])
            panel.imshow(patch, cmap="gray", vmin=0, vmax=255)
            panel.set_xticks([])
            panel.set_yticks([])
            if column == 0:
                panel.set_ylabel(words, rotation=0, ha="right", va="center")
    panel = figure.add_subplot(grid[-1, :])
    panel.axis("off")
    if table:
        drawn = panel.table(
            cellText=[list(row.values()) for row in table],
            colLabels=list(table[0]),
            bbox=Bbox.from_bounds(-0.14, 0.16, 1.14, 0.84),
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(6.5)
    panel.text(0.0, 0.0, note, fontsize=6.5, va="bottom", wrap=True)
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)
