"""Image files as grey values that become 8-bit where they are needed, and masks."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from mammo_dp.data import dicom
from mammo_dp.data.patches import aspect_change

# aspect_change of mask and image: without a note up to the first, refused beyond the second
SILENT_ASPECT, LARGEST_ASPECT = 0.002, 0.01
JPEG = b"\xff\xd8"  # how such a file begins
BITS, PHOTOMETRIC, ORIENTATION, SAMPLES = 258, 262, 274, 277  # tags of TIFF and EXIF
SOFT = 7  # px across which the edge of a mask may be soft
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
    """A DICOM, PNG, TIFF, PGM or JPEG file, recognised by content.

    DICOM and whatever is deeper than 8 bits are scaled from the minimum and maximum of the whole image to 0..255, as
    in the published code; 8-bit images stay as they are. Raises ValueError with the reason, OSError from the disk.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _should_be_dicom(file):
            stored, header = dicom.stored_values(file)
            return _reduced(
                stored, digest, lambda values: dicom.displayed(values, header), dicom.padding(header)
            )
        stored = _decoded(file.read())
    if stored.dtype == np.uint8:
        return Grey(stored, 0, np.arange(256, dtype=np.uint8), digest)
    return _reduced(stored, digest, lambda values: values)


def read_mask(path: Path, *, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """(height, width) uint8 array, 1 where a mask marks, on the image's grid of `shape`; and a note, mostly empty.

    A mask of another size is brought to the image's where the aspects agree (CBIS-DDSM has both at one aspect).
    Raises ValueError with the reason if it lies on another grid or is no mask: grey values, several labels, inverted.
    """
    with path.open("rb") as file:
        if _should_be_dicom(file):
            stored, lossy = dicom.stored_values(file)[0], False
        else:
            data = file.read()
            stored, lossy = _decoded(data), data.startswith(JPEG)
    marked = _marked(stored, lossy=lossy)
    if marked.shape == shape:
        return marked, ""
    change = aspect_change(marked.shape, shape)
    if change > LARGEST_ASPECT:
        turned = "; is it transposed?" if marked.shape == shape[::-1] else ""
        raise ValueError(
            f"mask of {_size(marked.shape)} px does not lie on the image of {_size(shape)} px{turned}"
        )
    note = f"mask and image differ by {change:.1%} in aspect" if change > SILENT_ASPECT else ""
    return cv2.resize(marked, shape[::-1], interpolation=cv2.INTER_NEAREST), note


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Scale an array's own minimum and maximum to 0 and 255, rounding to nearest. A constant array gives zeros."""
    low, high = array.min(), array.max()
    if high == low:
        return np.zeros(array.shape, np.uint8)
    scaled = (array.astype(np.float32) - np.float32(low)) * np.float32(255 / (float(high) - float(low)))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def why_unreadable(error: Exception) -> str:
    """What is wrong with a file, without its path; never empty."""
    if isinstance(error, OSError):
        return f"file cannot be read ({error.strerror or type(error).__name__})"
    if isinstance(error, MemoryError):
        return "not enough memory for this image"
    if isinstance(error, cv2.error) or not str(error):
        return "image of a form that cannot be worked with"
    return str(error)


def _should_be_dicom(file: BinaryIO) -> bool:
    """Whether a file is DICOM, or is named so; it is at its start again afterwards."""
    file.seek(0)
    start = file.read(dicom.START)
    file.seek(0)
    if not start:
        raise ValueError("empty file")
    return dicom.is_dicom(start) or Path(file.name).suffix.lower() in (".dcm", ".dicom", ".dic")


def _decoded(data: bytes) -> np.ndarray:
    """(height, width) array of an image file of 8 or 16 bits or of floats; colour becomes grey."""
    _check_form(data)
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), AS_STORED)
        if array is not None and array.ndim == 3:
            array = cv2.cvtColor(array, cv2.COLOR_BGR2GRAY)
    except cv2.error:
        array = None
    if array is None:
        raise ValueError("not a readable image (PNG, TIFF, PGM, JPEG or DICOM), or cut short")
    if array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise ValueError("image with values that are not numbers")
    return array


def _check_form(data: bytes) -> None:
    """Raise ValueError for what OpenCV would read without a word, but not as it is meant."""
    try:
        image = Image.open(io.BytesIO(data))
        pages, turn = getattr(image, "n_frames", 1), image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever Pillow raises over what it does not know; OpenCV has the last word
        return
    with image:
        tags = dict(getattr(image, "tag_v2", {}))
        if pages > 1:
            raise ValueError("image of several pages; give one file a page")
        if turn not in (0, 1):
            raise ValueError(
                "image that says that it is turned; positions in it are ambiguous, save it upright"
            )
        if np.max(tags.get(BITS, 8)) > 8 and (tags.get(PHOTOMETRIC) == 0 or tags.get(SAMPLES) == 2):
            raise ValueError(
                "TIFF of 16 bits with white as zero or with an alpha channel; save it as plain grey"
            )
        if tags:
            try:
                image.load()  # OpenCV ignores damaged strips of a TIFF
            except (OSError, SyntaxError, ValueError):
                raise ValueError("damaged TIFF, or cut short; copy or save it again") from None


def _reduced(
    stored: np.ndarray,
    digest: str,
    displayed: Callable[[np.ndarray], np.ndarray],
    padding: int | None = None,
) -> Grey:
    """The image with a table over all values between its least and greatest, mapped by `displayed`.

    `padding`: stored value of what is no image; it becomes as dark as the darkest pixel.
    """
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:  # too many values for a table
        whole = to_uint8(displayed(stored))
        return Grey(whole, 0, np.arange(256, dtype=np.uint8), digest)
    if stored.dtype == np.int8:
        stored = stored.astype(np.int16)  # OpenCV resizes no int8
    low, high = int(stored.min()), int(stored.max())
    values = displayed(np.arange(low, high + 1).astype(stored.dtype))
    padded = padding if padding is not None and low <= padding <= high else None
    present = np.zeros(len(values), bool)
    present[[0, -1]] = True
    if padded is not None or not _is_monotonic(
        values
    ):  # then the extremes may lie at values that the image lacks
        present = np.bincount(stored.ravel().astype(np.int64) - low, minlength=len(values)) > 0
    if padded is not None and present.sum() > 1:
        present[padded - low] = False
        values[padded - low] = values[present].min()
    return Grey(stored, low, to_uint8(values.clip(values[present].min(), values[present].max())), digest)


def _is_monotonic(values: np.ndarray) -> bool:
    steps = np.diff(values.astype(np.float64))
    return bool((steps >= 0).all() or (steps <= 0).all())


def _marked(stored: np.ndarray, *, lossy: bool) -> np.ndarray:
    """1 where the upper half of a mask's range is, 0 elsewhere. Raises ValueError if the values are not a mask's."""
    if stored.dtype != np.uint8:
        small = stored.dtype.kind in "ui" and stored.min() >= 0 and stored.max() <= 255
        stored = stored.astype(np.uint8) if small else to_uint8(stored)
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
    if np.count_nonzero(counts) > 2 and _is_grey(part, top):
        raise ValueError("not a mask: it holds grey values")
    if above > stored.size / 2:
        raise ValueError("mask marks more than half of the image; is it inverted?")
    marked = np.zeros(stored.shape, np.uint8)
    marked[y : y + height, x : x + width] = part > top // 2
    return marked


def _is_grey(part: np.ndarray, top: int) -> bool:
    """Whether values between 0 and `top` lie elsewhere than at the edge of what is marked, as in a picture."""
    between = (part > top // 10) & (part < top - top // 10)
    marked = (part > top // 2).astype(np.uint8)
    kernel = np.ones((SOFT, SOFT), np.uint8)
    edge = cv2.dilate(marked, kernel) != cv2.erode(marked, kernel)
    elsewhere, size = np.count_nonzero(between & ~edge), np.count_nonzero(marked)
    return bool(elsewhere > 0.01 * size or np.count_nonzero(between) > size)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
