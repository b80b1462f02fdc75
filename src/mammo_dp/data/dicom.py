"""DICOM files: what the header says, and the grey values of one image.

Nothing that pydicom says about a file is passed on: its messages can quote names of patients and paths.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, RLELossless

START = 132  # bytes at the beginning of a file that tell DICOM


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels; empty or 0 where it does not."""

    series: str
    instance: str  # SOPInstanceUID: one for all copies of the same file
    bits: int  # allocated, a pixel
    rows: int
    columns: int
    description: str  # of the series


def is_dicom(start: bytes) -> bool:
    """Whether the first START bytes of a file are those of a DICOM file."""
    return start[128:START] == b"DICM"


def read_header(path: Path) -> Header | None:
    """The header alone, or None if there is none in the file. Raises OSError from the disk."""
    with _quiet():
        try:
            found = pydicom.dcmread(path, stop_before_pixels=True)
            return Header(
                series=str(found.get("SeriesInstanceUID") or ""),
                instance=str(found.get("SOPInstanceUID") or ""),
                bits=int(found.get("BitsAllocated") or 0),
                rows=int(found.get("Rows") or 0),
                columns=int(found.get("Columns") or 0),
                description=str(found.get("SeriesDescription") or ""),
            )
        except (OSError, MemoryError):
            raise
        except Exception:  # whatever pydicom raises over a damaged file
            return None


def stored_values(file: BinaryIO) -> tuple[np.ndarray, pydicom.Dataset]:
    """(height, width) array as stored, and the header. Raises ValueError with the reason."""
    if not is_dicom(file.read(START)):
        raise ValueError("not a DICOM file")
    with _quiet():
        try:
            file.seek(0)
            dataset = pydicom.dcmread(file)
            frames = int(dataset.get("NumberOfFrames") or 1)
            samples = int(dataset.get("SamplesPerPixel") or 1)
            colour = str(dataset.get("PhotometricInterpretation"))
            syntax = dataset.file_meta.TransferSyntaxUID
        except (OSError, MemoryError):
            raise
        except Exception:
            raise ValueError("damaged DICOM header") from None
        if frames > 1:
            raise ValueError(f"multi-frame DICOM ({frames} frames); give one file a frame")
        if samples > 1 or "PALETTE" in colour:
            raise ValueError("colour DICOM; a grey image is needed")
        if "PixelData" not in dataset:
            raise ValueError("DICOM file without pixels")
        try:
            array = pixel_array(dataset, view_only=True)  # a view of the pixels that the dataset holds
        except MemoryError:
            raise
        except Exception:
            raise ValueError(_why_not_decoded(syntax)) from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # OpenCV would misread big-endian values
    if array.ndim != 2 or not array.size:
        raise ValueError(f"DICOM image of shape {array.shape}; a single grey image is needed")
    return array, dataset


def displayed(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """`values` as they are meant to be seen: rescaled, through the first VOI LUT or window, MONOCHROME1 inverted.

    Each value is mapped by itself, so a table of values can stand for an image. Raises ValueError with the reason.
    """
    with _quiet():
        try:
            shown = apply_voi_lut(apply_modality_lut(values, dataset), dataset, index=0)
            inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        except Exception:
            raise ValueError("damaged rescale, window or VOI LUT") from None
    if inverted:
        shown = -shown.astype(np.float64)
    if not np.isfinite(shown).all():
        raise ValueError("rescale or window gives values that are not numbers")
    return shown


def padding(dataset: pydicom.Dataset) -> int | None:
    """The stored value that means no image (PixelPaddingValue), if the header names one."""
    with _quiet():
        try:
            return int(dataset.PixelPaddingValue)
        except Exception:  # none, or a damaged one
            return None


def _why_not_decoded(syntax: UID) -> str:
    if not syntax.is_transfer_syntax or not syntax.is_compressed or syntax == RLELossless:
        return "damaged or truncated pixels; copy the file again"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:  # pydicom's word for a transfer syntax that it has no decoder for
        available = False
    name = f"{syntax.name} ({syntax})"
    if available:
        return f"pixels that the decoder of {name} refuses: damaged, or of an unusual depth"
    return f"compressed as {name}, for which no decoder is installed; add python-gdcm, or convert the file"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom's warnings, which quote values, out of every log."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
