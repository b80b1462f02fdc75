"""A patches artifact as arrays: the index as a table, the images as one uint8 array."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from mammo_dp.data.patches import Box
from mammo_dp.data.pseudonyms import PSEUDONYM
from mammo_dp.data.records import Lesion
from mammo_dp.engine.artifacts import Artifact

INDEX = "index.csv"
PICTURES = "pictures.npy"  # (images, 1024) uint8 thumbnails of the source images
INDEX_COLUMNS = (
    "patch", "source", "split", "patient", "image", "lesion", "view", "laterality", "density", "abnormality",
    "subtlety", "acquisition", "pathology", "malignant", "box_x0", "box_y0", "box_x1", "box_y1", "source_sha256", "row",
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

    @property
    def pictures(self) -> np.ndarray:
        """(images, 1024) uint8 thumbnails of the source images of an artifact."""
        return np.load(self.artifacts[0].path(PICTURES))

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
        """(n,) str that tells patients apart, also those of two sources that share an id; empty where not known.

        Pseudonyms are random, so one that occurs in two sources of a custom table is one patient.
        """
        patient = self.index["patient"]
        of_source = np.where(patient.str.fullmatch(PSEUDONYM), patient, self.index["source"] + "/" + patient)
        return np.where(patient != "", of_source, "")

    def rows(self, split: str, source: str | None = None) -> np.ndarray:
        """Positions of a split's patches, of one source or of all, in index order."""
        chosen = self.index["split"] == split
        if source is not None:
            chosen &= self.index["source"] == source
        return np.flatnonzero(chosen)


def _read_png(artifact: Artifact, name: str) -> np.ndarray:
    return cv2.imread(str(artifact.path(name)), cv2.IMREAD_GRAYSCALE)  # type: ignore[return-value]


def patch_name(number: int, *, source: str, split: str, malignant: bool) -> str:
    """Where the PNG of a patch lies in its artifact."""
    return f"{source}/{split}/{'malignant' if malignant else 'benign'}/{number:05d}.png"


def write_pictures(folder: Path, thumbnails: Mapping[str, bytes]) -> None:
    """By SHA-256 of the source image, so that each is there once."""
    every = [np.frombuffer(thumbnail, np.uint8) for thumbnail in thumbnails.values()]
    np.save(folder / PICTURES, np.stack(every))


def encoded(image: np.ndarray) -> bytes:
    """A PNG of (h, w) uint8."""
    return cv2.imencode(".png", image)[1].tobytes()


def write_png(path: Path, png: bytes) -> None:
    """Write an encoded patch, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def index_row(
    name: str, lesion: Lesion, box: Box, source_sha256: str, *, source: str, split: str
) -> dict[str, object]:
    """The row of a patch in the index."""
    row = {key: value for key, value in lesion.__dict__.items() if key in INDEX_COLUMNS}
    coordinates = {f"box_{corner}": value for corner, value in asdict(box).items()}
    return {
        **row,
        **coordinates,
        "patch": name,
        "source": source,
        "split": split,
        "malignant": int(lesion.malignant),
        "source_sha256": source_sha256,
    }
