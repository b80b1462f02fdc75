"""What every reader yields: one lesion in one image, or a row that gave none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class MaskFile:
    """The lesion is what a mask image marks.

    Several candidates where no header tells the mask from the crop of the lesion: the pixels then decide.
    """

    candidates: tuple[Path, ...]


@dataclass(frozen=True)
class Outline:
    """The lesion is a closed polygon. `points`: (n, 2) array of x, y in px, origin top left.

    What reaches over the image's border is cut off, unless the polygon `must_fit`.
    """

    points: np.ndarray
    must_fit: bool = False


@dataclass(frozen=True)
class WholeImage:
    """The image is a patch that somebody else has cut already."""


Region = MaskFile | Outline | WholeImage


@dataclass(frozen=True)
class Lesion:
    """One annotated lesion in one image. Empty strings stand for what the source does not say."""

    row: str  # where it was read: a table's row or a file's name
    image_path: Path
    region: Region
    patient: str
    image: str  # one id for all lesions of the same mammogram
    malignant: bool
    split: Split | Literal[""] = ""  # as the source states it
    lesion: str = ""  # one id for the same lesion in all views
    view: str = ""  # CC, MLO
    laterality: str = ""  # L, R
    density: str = ""  # BI-RADS 1 to 4
    abnormality: str = "mass"
    subtlety: str = ""
    acquisition: str = ""  # film, digital
    pathology: str = ""
    source: str = ""  # empty: that of the dataset's source; a custom table may tell several apart
    key: str = ""  # what the split is drawn from where it is not the patient's id; never written
    note: str = ""  # what a user should know of this row although it gave a patch


@dataclass(frozen=True)
class Skipped:
    """A row that gave no patch, and why. `on_purpose`: left out by a setting, which is no fault of the data."""

    row: str
    reason: str
    on_purpose: bool = False
