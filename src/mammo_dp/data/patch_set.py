"""A patches artifact as arrays: the index as a table, the images as one uint8 array."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import pandas as pd

from mammo_dp.artifacts import Artifact

INDEX = "index.csv"
INDEX_COLUMNS = (
    "patch", "source", "split", "patient", "image", "lesion", "view", "laterality", "density", "abnormality",
    "subtlety", "acquisition", "pathology", "malignant", "box_x0", "box_y0", "box_x1", "box_y1", "source_sha256",
)  # fmt: skip
TEXT_COLUMNS = INDEX_COLUMNS[:13]


@dataclass(frozen=True)
class PatchSet:
    """`index`: one row a patch with INDEX_COLUMNS, in the order of every array that belongs to it."""

    artifact: Artifact
    index: pd.DataFrame

    @classmethod
    def load(cls, artifact: Artifact) -> "PatchSet":
        index = pd.read_csv(
            artifact.path(INDEX), dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False
        )
        return cls(artifact, index)

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def images(self) -> np.ndarray:
        """(n, size, size) uint8."""
        return np.stack([_read_png(self.artifact, name) for name in self.index["patch"]])

    @property
    def malignant(self) -> np.ndarray:
        """(n,) int64, malignant = 1."""
        return self.index["malignant"].to_numpy(np.int64)

    def rows(self, split: str, source: str | None = None) -> np.ndarray:
        """Positions of a split's patches, of one source or of all, in index order."""
        chosen = self.index["split"] == split
        if source is not None:
            chosen &= self.index["source"] == source
        return np.flatnonzero(chosen)


def _read_png(artifact: Artifact, name: str) -> np.ndarray:
    return cv2.imread(str(artifact.path(name)), cv2.IMREAD_GRAYSCALE)  # type: ignore[return-value]
