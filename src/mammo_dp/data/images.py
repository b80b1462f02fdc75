"""Image files as 8-bit grey arrays."""

from pathlib import Path

import cv2
import numpy as np

from mammo_dp.data import dicom


def read_grey(path: Path) -> np.ndarray:
    """(height, width) uint8 array of any image file.

    DICOM is scaled from its own minimum and maximum to 0..255 over the whole image, as in the published code;
    other forms are read as 8-bit grey. Raises ValueError with the reason if the file cannot be read.
    """
    if path.suffix.lower() == ".dcm":
        return to_uint8(dicom.pixels(path))
    array = (
        cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_GRAYSCALE) if path.stat().st_size else None
    )
    if array is None:
        raise ValueError("not a readable image")
    return array


def read_mask(path: Path, *, shape: tuple[int, int]) -> np.ndarray:
    """(height, width) bool array of what a mask marks, brought to the image's `shape` where the two differ.

    Masks of CBIS-DDSM may be of another size at the same aspect; beyond 0.2 % of difference in aspect it belongs to
    another image. Raises ValueError with the reason.
    """
    stored = dicom.pixels(path) if path.suffix.lower() == ".dcm" else read_grey(path)
    marked = stored > stored.max() / 2 if stored.max() > 0 else np.zeros(stored.shape, bool)
    if stored.shape != shape:
        ratio = (stored.shape[0] / stored.shape[1]) / (shape[0] / shape[1])
        if abs(ratio - 1) > 0.002:
            raise ValueError(f"mask of {stored.shape} does not lie on the image of {shape}")
        marked = cv2.resize(marked.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(
            bool
        )
    return marked


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Scale an array's own minimum and maximum to 0 and 255, rounding to nearest. A constant array gives zeros."""
    low, high = int(array.min()), int(array.max())
    if high == low:
        return np.zeros(array.shape, np.uint8)
    return np.rint((array.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)


def why_unreadable(error: Exception, path: Path) -> str:
    """What is wrong with the file at `path`, without that path."""
    if isinstance(error, OSError):
        return f"file cannot be read ({error.strerror or type(error).__name__})"
    return str(error).replace(str(path), "the file")
