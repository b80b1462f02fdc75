"""A patches artifact as arrays: the index as a table, the images as one uint8 array."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from mammo_dp.artifacts import Artifact
from mammo_dp.data.patches import Box
from mammo_dp.data.records import Lesion

INDEX = "index.csv"
INDEX_COLUMNS = (
    "patch", "source", "split", "patient", "image", "lesion", "view", "laterality", "density", "abnormality",
    "subtlety", "acquisition", "pathology", "malignant", "box_x0", "box_y0", "box_x1", "box_y1", "source_sha256",
)  # fmt: skip
TEXT_COLUMNS = INDEX_COLUMNS[:13]


@dataclass(frozen=True)
class PatchSet:
    """`index`: one row a patch with INDEX_COLUMNS, in the order of every array that belongs to it.

    `artifacts` holds, for each row, the artifact that its image lies in.
    """

    artifacts: tuple[Artifact, ...]
    index: pd.DataFrame

    @classmethod
    def load(cls, artifact: Artifact) -> "PatchSet":
        index = pd.read_csv(
            artifact.path(INDEX), dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False
        )
        return cls((artifact,) * len(index), index)

    def joined(self, other: "PatchSet") -> "PatchSet":
        """The rows of both, the other's after these."""
        index = pd.concat([self.index, other.index], ignore_index=True)
        return PatchSet(self.artifacts + other.artifacts, index)

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def images(self) -> np.ndarray:
        """(n, size, size) uint8."""
        return np.stack(
            [_read_png(a, name) for a, name in zip(self.artifacts, self.index["patch"], strict=True)]
        )

    @property
    def malignant(self) -> np.ndarray:
        """(n,) int64, malignant = 1."""
        return self.index["malignant"].to_numpy(np.int64, copy=True)

    @property
    def patients(self) -> np.ndarray:
        """(n,) str that tells patients apart, also those of two sources that share an id; empty where not known."""
        known = self.index["patient"] != ""
        return np.where(known, self.index["source"] + "/" + self.index["patient"], "")

    def rows(self, split: str, source: str | None = None) -> np.ndarray:
        """Positions of a split's patches, of one source or of all, in index order."""
        chosen = self.index["split"] == split
        if source is not None:
            chosen &= self.index["source"] == source
        return np.flatnonzero(chosen)


def _read_png(artifact: Artifact, name: str) -> np.ndarray:
    return cv2.imread(str(artifact.path(name)), cv2.IMREAD_GRAYSCALE)  # type: ignore[return-value]


def write_patch(
    number: int,
    lesion: Lesion,
    patch: np.ndarray,
    box: Box,
    digest: str,
    *,
    source: str,
    split: str,
    folder: Path,
) -> dict[str, object]:
    """Write a patch as PNG below `folder` and return its row of the index."""
    label = "malignant" if lesion.malignant else "benign"
    name = f"{source}/{split}/{label}/{number:05d}.png"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(folder / name), patch):
        raise OSError(f"could not write {name}; is the disk full?")
    kept = {k: v for k, v in lesion.__dict__.items() if k not in ("row", "image_path", "region")}
    coordinates = {f"box_{corner}": value for corner, value in asdict(box).items()}
    return {
        "patch": name,
        "source": source,
        **kept,
        "split": split,
        "malignant": int(lesion.malignant),
        **coordinates,
        "source_sha256": digest,
    }
