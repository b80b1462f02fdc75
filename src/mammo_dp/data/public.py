"""Public images without labels: a folder of patches, or of whole mammograms that random crops are cut from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mammo_dp.config.schema import Public
from mammo_dp.data.cutting import thumbnail
from mammo_dp.data.images import Grey, read_image, why_unreadable
from mammo_dp.data.patches import Box, cut, resize, whole
from mammo_dp.data.unlabelled import SUFFIXES
from mammo_dp.errors import UserError
from mammo_dp.files import walk_files

TRIES = 50  # for each crop
AIR = 40  # grey level of 255: what is darker is no breast
TISSUE = 0.9  # least fraction of a crop that is none of it
BRIGHTEST = 235.0  # mean grey level, above which a crop shows a label or a film's border


@dataclass(frozen=True)
class PublicPatch:
    """A (size, size) uint8 patch, where it was cut, and its file."""

    pixels: np.ndarray
    box: Box
    file: str  # relative to the folder
    sha256: str
    thumbnail: bytes  # of the file, 1024 uint8


def files_of(public: Public) -> list[Path]:
    """Image files below public.root. Raises UserError if there are none."""
    root = Path(str(public.root))
    if not root.is_dir():
        raise UserError(f"public.root={public.root} is not a folder; set public.root=FOLDER of public images")
    found = [path for path in walk_files(root) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"public.root={public.root} holds no image ({', '.join(SUFFIXES)})")
    return found


def patches_of(public: Public, path: Path, *, size: int) -> list[PublicPatch] | str:
    """The patches of one file, or why it gives none."""
    file = path.relative_to(str(public.root)).as_posix()
    try:
        image = read_image(path)
        if public.kind == "patches":
            found = [whole(image.eight_bit(image.stored), size)]
        else:
            rng = np.random.default_rng([public.seed, *file.encode()])
            found = list(_crops(image, public, size=size, rng=rng))
    except (ValueError, OSError) as error:
        return why_unreadable(error)
    if not found:
        return "no place for a crop: too little of the image is tissue"
    small = thumbnail(image)
    return [PublicPatch(pixels, box, file, image.sha256, small) for pixels, box in found]


def _crops(
    image: Grey, public: Public, *, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, Box]]:
    """Squares of random size and place that show tissue, at `size`."""
    height, width = image.shape
    low, high = (np.log(fraction * max(image.shape)) for fraction in public.crop_side)
    for _ in range(public.crops):
        for _ in range(TRIES):
            side = max(1, min(round(float(np.exp(rng.uniform(low, high)))), height, width))
            x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
            box = Box(x, y, x + side, y + side)
            pixels = image.eight_bit(cut(image.stored, box))
            if (pixels > AIR).mean() > TISSUE and pixels.mean() < BRIGHTEST:
                yield resize(pixels, size), box
                break
