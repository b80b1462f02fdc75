"""Radiomics features of patches and the Frechet radiomics distance, by frd-score (extra `radiomics`).

Version v0 of the distance, the paper's: 102 features of pyradiomics from the original image; both sets scaled together
to the range of the paper's FID features; no logarithm. Later versions report a logarithm of another distance.
"""

import importlib.metadata
import logging
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mammo_dp.engine.progress import track
from mammo_dp.engine.workers import each, workers_for
from mammo_dp.errors import UserError

VERSION = "v0"
INSTALL = "./scripts/radiomics.sh"


def installed() -> str | None:
    """Versions of what measures radiomics, or None where the extra is not installed."""
    try:
        names = ("frd-score", "pyradiomics")
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_installed() -> None:
    """Raise UserError, with the command that installs it, if the extra is not there."""
    if installed() is None:
        raise UserError(
            f"the space radiomics is left out: frd-score and pyradiomics are not installed; run {INSTALL}"
        )


def radiomics_features(images: np.ndarray, *, workers: int | None) -> np.ndarray:
    """(n, h, w) uint8 -> (n, 102) features of the whole patch, in processes of their own.

    Raises UserError if the extra is not installed or a process crashes on an image.
    """
    check_installed()
    tasks = list(enumerate(images))
    rows: dict[int, np.ndarray] = {}
    results = each(_measure, tasks, workers=workers_for(workers, len(tasks)))
    for (number, _), row in track(results, "radiomics", total=len(tasks)):
        if row is None:
            raise UserError(
                f"a pyradiomics process crashed on patch {number}; try again with runtime.workers=1"
            )
        rows[number] = row
    return np.stack([rows[number] for number in range(len(tasks))])


def radiomics_distance(a: np.ndarray, b: np.ndarray) -> float:
    """FRD v0 of (n, f) and (m, f) radiomics features: scaled together by their range, then a Frechet distance."""
    from frd_score import frd  # pyright: ignore[reportMissingImports]

    both = np.concatenate([a, b])
    low, high = frd.V0_DEFAULT_NORM_RANGE
    a, b = (frd.min_max_normalize(x, low, high, base_distribution=both) for x in (a, b))
    statistics = [moment for x in (a, b) for moment in (x.mean(axis=0), np.cov(x, rowvar=False))]
    return float(frd.calculate_frechet_distance(*statistics))


def _measure(task: tuple[int, np.ndarray]) -> np.ndarray:
    """The features of one patch. frd-score reads files, so the patch becomes one."""
    from frd_score import frd  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        image, mask = Path(folder) / "image.png", Path(folder) / "mask.png"
        cv2.imwrite(str(image), task[1])
        whole = np.ones_like(task[1])
        whole[0, 0] = 0  # pyradiomics takes a mask of ones alone for an empty one
        cv2.imwrite(str(mask), whole)
        found = frd.process_image_mask_pair(
            (image, mask), feature_extractor=_extractor(), frd_version=VERSION
        )
    assert found is not None  # only for masks without a pixel
    return np.array(found[0], dtype=np.float64)


@cache
def _extractor() -> Any:
    """One a process. Silent: pyradiomics logs each image."""
    import radiomics  # pyright: ignore[reportMissingImports]
    from frd_score import frd  # pyright: ignore[reportMissingImports]

    radiomics.setVerbosity(60)
    logging.getLogger("radiomics").setLevel(logging.ERROR)
    return frd.get_feature_extractor(VERSION)
