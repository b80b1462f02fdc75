"""An index of a tree of images by SeriesInstanceUID: whatever the folders and files are called."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from mammo_dp.data import dicom
from mammo_dp.engine.progress import track
from mammo_dp.files import Cache, tree_identity, walk_files

VERSION = 1  # raised when an index says other things
UID = re.compile(r"[0-2](\.\d+){3,}")
PICTURES = (".jpg", ".jpeg", ".png")
NOT_IMAGES = (
    ".csv",
    ".txt",
    ".md",
    ".json",
    ".xml",
    ".pdf",
    ".zip",
    ".gz",
    ".tcia",
    ".html",
    ".log",
    ".xlsx",
)


@dataclass(frozen=True)
class ImageFile:
    """One file of a series. `bits`, `rows` and `columns` are 0 where its header cannot be read."""

    path: Path
    series: str
    instance: str  # one for all copies of the same file
    bits: int
    rows: int
    columns: int
    description: str

    @property
    def is_picture(self) -> bool:
        return self.path.suffix.lower() in PICTURES


def index_series(root: Path, cache: Cache) -> dict[str, list[ImageFile]]:
    """SeriesInstanceUID -> its files below `root`, sorted by path; built once for each state of the tree.

    A DICOM file says its series itself; a picture, and a DICOM file that cannot be read, is known by the last folder
    of its path that is named like a UID. Copies of one DICOM file count once, and pictures of a series that is there
    as DICOM not at all.
    """
    key = ("series index", VERSION, tree_identity(root))
    known = cache.get(*key)
    if known is None:
        refused: list[Path] = []
        paths = [path for path in walk_files(root, refused) if path.suffix.lower() not in NOT_IMAGES]
        found = [
            file for path in track(paths, "index of the series") if (file := _describe(path, root, refused))
        ]
        if not refused:  # else the same state of the tree may give more another time
            cache.put(
                [asdict(file) | {"path": file.path.relative_to(root).as_posix()} for file in found], *key
            )
    else:
        found = [ImageFile(**{**entry, "path": root / entry["path"]}) for entry in known]
    series: dict[str, dict[str, ImageFile]] = {}
    for file in found:
        series.setdefault(file.series, {}).setdefault(file.instance or str(file.path), file)
    return {uid: _without_pictures(list(files.values())) for uid, files in series.items()}


def _describe(path: Path, root: Path, refused: list[Path]) -> ImageFile | None:
    """What is known of a file, or None if it belongs to no series. What the disk refuses is added to `refused`."""
    folders = path.relative_to(root).parts[-2::-1]
    named = next((part for part in folders if UID.fullmatch(part)), "")
    if path.suffix.lower() in PICTURES:
        rows, columns = _size(path)
        return ImageFile(path, named, "", 8, rows, columns, "") if named else None
    try:
        header = dicom.read_header(path)
    except OSError:
        refused.append(path)
        header = None
    if header is None or not header.series:
        return ImageFile(path, named, "", 0, 0, 0, "") if named else None
    return ImageFile(
        path, header.series, header.instance, header.bits, header.rows, header.columns, header.description
    )


def _size(path: Path) -> tuple[int, int]:
    """Height and width of a picture from its header; zeros if it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return 0, 0


def _without_pictures(files: list[ImageFile]) -> list[ImageFile]:
    return [file for file in files if not file.is_picture] or files
