"""Image files as grey values that become 8-bit where they are needed, and masks."""

import hashlib
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mammo_dp.data import dicom

SAME_ASPECT, LARGEST_ASPECT = (
    0.002,
    0.01,
)  # relative difference between mask and image: silent up to, refused beyond
AS_STORED = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION


@dataclass(frozen=True)
class Grey:
    """One grey image: what is stored, and the table that brings a stored value to 8 bits.

    `stored`: (height, width) integers; value v becomes table[v - low], so only what is cut out is ever converted.
    """

    stored: np.ndarray
    low: int
    table: np.ndarray  # uint8
    sha256: str  # of the file

    @property
    def shape(self) -> tuple[int, int]:
        return self.stored.shape  # type: ignore[return-value]

    def eight_bit(self, stored: np.ndarray) -> np.ndarray:
        """uint8 array of the shape of `stored`, a part of this image."""
        if self.low == 0:
            return self.table[stored]
        return self.table[stored.astype(np.int64) - self.low]


def read_image(path: Path) -> Grey:
    """A DICOM, PNG, TIFF, PGM or JPEG file, told apart by content.

    DICOM and whatever is deeper than 8 bits are scaled from the minimum and maximum of the whole image to 0..255, as
    in the published code; 8-bit images stay as they are. Raises ValueError with the reason, OSError from the disk.
    """
    with _mapped(path) as data:
        digest = hashlib.sha256(data).hexdigest()
        if _should_be_dicom(path, data):
            stored, header = dicom.stored_values(data)
            return _reduced(stored, digest, lambda values: dicom.displayed(values, header))
        stored = _decoded(data)
    if stored.dtype == np.uint8:
        return Grey(stored, 0, np.arange(256, dtype=np.uint8), digest)
    return _reduced(stored, digest, lambda values: values)


def read_mask(path: Path, *, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """(height, width) uint8 array, 1 where a mask marks, on the image's grid of `shape`; and a note, mostly empty.

    A mask of another size is brought to the image's where the aspects agree (CBIS-DDSM has both at one aspect).
    Raises ValueError with the reason if it lies on another grid or is no mask: grey values, several labels, inverted.
    """
    with _mapped(path) as data:
        if _should_be_dicom(path, data):
            stored, lossy = dicom.stored_values(data)[0], False
        else:
            stored, lossy = _decoded(data), data[:2] == b"\xff\xd8"
    marked = _marked(stored, lossy=lossy)
    if marked.shape == shape:
        return marked, ""
    change = abs((marked.shape[0] / marked.shape[1]) / (shape[0] / shape[1]) - 1)
    if change > LARGEST_ASPECT:
        raise ValueError(f"mask of {_size(marked.shape)} px does not lie on the image of {_size(shape)} px")
    note = f"mask and image differ by {change:.1%} in aspect" if change > SAME_ASPECT else ""
    return cv2.resize(marked, shape[::-1], interpolation=cv2.INTER_NEAREST), note


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Scale an array's own minimum and maximum to 0 and 255, rounding to nearest. A constant array gives zeros."""
    low, high = array.min(), array.max()
    if high == low:
        return np.zeros(array.shape, np.uint8)
    scaled = (array.astype(np.float32) - np.float32(low)) * np.float32(255 / (float(high) - float(low)))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def why_unreadable(error: Exception) -> str:
    """What is wrong with a file, without its path."""
    if isinstance(error, OSError):
        return f"file cannot be read ({error.strerror or type(error).__name__})"
    return str(error)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file, read as they are used: a mammogram is not held twice."""
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ValueError("empty file") from None
        with data:
            yield data


def _should_be_dicom(path: Path, data: mmap.mmap) -> bool:
    return dicom.is_dicom(data) or path.suffix.lower() in (".dcm", ".dicom", ".dic")


def _decoded(data: mmap.mmap) -> np.ndarray:
    """(height, width) array of an image file of 8 or 16 bits or of floats; colour becomes grey."""
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), AS_STORED)
    except cv2.error:
        array = None
    if array is None:
        raise ValueError("not a readable image (PNG, TIFF, PGM, JPEG or DICOM), or cut short")
    if _pages(data) > 1:
        raise ValueError("image of several pages; give one file a page")
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGR2GRAY)
    if array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise ValueError("image with values that are not numbers")
    return array


def _pages(data: bytes | mmap.mmap) -> int:
    """Number of images in the file; only TIFF can hold several."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order = "little" if data[:2] == b"II" else "big"
    pages, at, seen = 0, int.from_bytes(data[4:8], order), set()
    while at and at not in seen and at + 2 <= len(data):
        seen.add(at)
        pages += 1
        entries = int.from_bytes(data[at : at + 2], order)
        at = int.from_bytes(data[at + 2 + 12 * entries : at + 6 + 12 * entries], order)
    return pages


def _reduced(stored: np.ndarray, digest: str, displayed: Callable[[np.ndarray], np.ndarray]) -> Grey:
    """The image with a table over all values between its least and greatest, mapped by `displayed`."""
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:  # too many values for a table
        whole = to_uint8(displayed(stored))
        return Grey(whole, 0, np.arange(256, dtype=np.uint8), digest)
    if stored.dtype == np.int8:
        stored = stored.astype(np.int16)  # OpenCV resizes no int8
    low, high = int(stored.min()), int(stored.max())
    values = displayed(np.arange(low, high + 1).astype(stored.dtype))
    present = np.zeros(len(values), bool)
    present[[0, -1]] = True
    if not _is_monotonic(values):  # then the extremes may lie at values that the image lacks
        present[np.unique(stored).astype(np.int64) - low] = True
    least, greatest = values[present].min(), values[present].max()
    return Grey(stored, low, to_uint8(values.clip(least, greatest)), digest)


def _is_monotonic(values: np.ndarray) -> bool:
    steps = np.diff(values.astype(np.float64))
    return bool((steps >= 0).all() or (steps <= 0).all())


def _marked(stored: np.ndarray, *, lossy: bool) -> np.ndarray:
    """1 where the upper half of a mask's range is, 0 elsewhere. Raises ValueError if the values are not a mask's."""
    if stored.dtype != np.uint8:
        stored = stored.astype(np.uint8) if stored.max() <= 255 and stored.min() >= 0 else to_uint8(stored)
    x, y, width, height = cv2.boundingRect(stored)  # outside, all is 0
    part = np.ascontiguousarray(stored[y : y + height, x : x + width])
    counts = np.bincount(part.ravel(), minlength=256)
    counts[0] += stored.size - part.size
    top = 255 if lossy else int(np.flatnonzero(counts)[-1])  # the noise of a JPEG marks nothing
    above = int(counts[top // 2 + 1 :].sum())
    if not top or not above:
        raise ValueError("mask marks nothing")
    if not lossy and 3 <= np.count_nonzero(counts) <= 8:
        raise ValueError("mask of several labels; give each lesion a mask of its own")
    between = int(counts[top // 4 + 1 : top - top // 4].sum())
    if between > above / 2:  # the soft edges of a small lesion stay below
        raise ValueError("not a mask: it holds grey values")
    if above > stored.size / 2:
        raise ValueError("mask marks more than half of the image; is it inverted?")
    marked = np.zeros(stored.shape, np.uint8)
    marked[y : y + height, x : x + width] = part > top // 2
    return marked


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
