"""DICOM files: what the header says and the pixels as stored."""

from pathlib import Path

import numpy as np
import pydicom


def bits_allocated(path: Path) -> int | None:
    """Bits a pixel from the header alone; None if the file is no DICOM file."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["BitsAllocated"])
    except (pydicom.errors.InvalidDicomError, OSError, EOFError):
        return None
    return header.get("BitsAllocated")


def pixels(path: Path) -> np.ndarray:
    """(height, width) array of stored values. Raises ValueError if the file holds no single grey image."""
    try:
        array = pydicom.dcmread(path).pixel_array
    except (
        pydicom.errors.InvalidDicomError,
        AttributeError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ValueError(f"not a readable DICOM image ({error})") from error
    if array.ndim != 2:
        raise ValueError(f"DICOM image of shape {array.shape}; a single grey image is needed")
    return array
