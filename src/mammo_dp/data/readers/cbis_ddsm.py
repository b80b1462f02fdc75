"""Reader of CBIS-DDSM: the case lists (CSV) in every form in circulation, and the images in any tree.

The file names in the case lists match no download, so files are found by their SeriesInstanceUID. Neither name nor
column tells the mask from the crop of the lesion (in about half of the series the two are swapped): the header does,
and where it does not, the pixels do.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mammo_dp.data.images import LARGEST_ASPECT
from mammo_dp.data.patches import aspect_change
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, MaskFile, Skipped
from mammo_dp.data.series import ImageFile, index_series
from mammo_dp.data.tables import FAULT, Row, read_table
from mammo_dp.errors import UserError
from mammo_dp.files import walk_files

CASE_LIST = re.compile(
    r"(?P<abnormality>mass|calc)_case_description_(?P<split>train|test)_set\.csv", re.IGNORECASE
)
COLUMNS = (
    "patient_id", "left_or_right_breast", "image_view", "abnormality_id", "pathology", "image_file_path",
    "cropped_image_file_path", "roi_mask_file_path",
)  # fmt: skip
EARLY_COLUMNS = {
    "side": "left_or_right_breast", "view": "image_view", "abn_num": "abnormality_id", "od_img_path": "image_file_path",
    "od_crop_path": "cropped_image_file_path", "mask_path": "roi_mask_file_path",
    "roi_mask_path": "roi_mask_file_path", "density": "breast_density",
}  # fmt: skip
MALIGNANT = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
SIDES = {"LEFT": "L", "RIGHT": "R", "L": "L", "R": "R"}
VIEWS = ("CC", "MLO")

Key = tuple[str, str, str, str]  # patient, side, view, abnormality: one row of a list


def read(request: Request) -> Iterator[Lesion | Skipped]:
    """One record a row of the case lists found anywhere below the folder. Raises UserError if there is none."""
    refused: list[Path] = []
    lists = _case_lists(request.folder, refused)
    wanted = {"mass": ["mass"], "calc": ["calc"], "all": ["mass", "calc"]}[request.abnormality]
    missing = [(kind, split) for kind in wanted for split in ("train", "test") if (kind, split) not in lists]
    if missing:
        names = " and no ".join(f"{kind}_case_description_{split}_set.csv" for kind, split in missing)
        raise UserError(
            f"no case list {names} below the CBIS-DDSM folder; put the lists of TCIA beside the images"
        )
    yield from (Skipped(f"folder {folder.name}", "folder cannot be read") for folder in refused)
    tested = {
        kind: {row["patient_id"] for _, row in lists.get((kind, "test"), [])} for kind in ("mass", "calc")
    }
    series = index_series(request.folder, request.cache)
    for abnormality in wanted:
        for split in ("train", "test"):
            rows = lists[abnormality, split]
            pathologies: dict[Key, dict[str, int]] = {}
            for number, row in rows:
                pathologies.setdefault(_key(row), {}).setdefault(row["pathology"].upper(), number)
            for number, row in rows:
                where = f"{abnormality}_case_description_{split}_set.csv:{number}"
                fault = _fault(row, number, pathologies[_key(row)])
                if fault:
                    yield Skipped(where, fault)
                    continue
                tests = [kind for kind in ("mass", "calc") if row["patient_id"] in tested[kind]]
                yield _lesion(row, where, abnormality, split, series, tests, wanted)


def _case_lists(root: Path, refused: list[Path]) -> dict[tuple[str, str], list[tuple[int, Row]]]:
    """(abnormality, split) -> numbered rows. Raises UserError if two copies of one list differ.

    Folders that may not be read are added to `refused`.
    """
    lists: dict[tuple[str, str], list[tuple[int, Row]]] = {}
    for path in walk_files(root, refused):
        name = CASE_LIST.fullmatch(path.name)
        if name is None:
            continue
        rows = read_table(path, title=path.name, required=COLUMNS, aliases=EARLY_COLUMNS)
        key = name["abnormality"].lower(), name["split"].lower()
        if lists.setdefault(key, rows) != rows:
            raise UserError(f"two different copies of {path.name} below the CBIS-DDSM folder; keep one")
    return lists


def _key(row: Row) -> Key:
    return row["patient_id"], row["left_or_right_breast"], row["image_view"], row["abnormality_id"]


def _fault(row: Row, number: int, pathologies: dict[str, int]) -> str:
    """What is wrong with a row by itself or beside its repeats, or nothing."""
    pathology = row["pathology"].upper()
    if row[FAULT]:
        return row[FAULT]
    if not row["patient_id"]:
        return "patient_id is empty"
    if pathology not in MALIGNANT:
        return f"pathology {row['pathology']!r} is neither benign nor malignant"
    if row["left_or_right_breast"].upper() not in SIDES:
        return f"side {row['left_or_right_breast']!r} is neither left nor right"
    if row["image_view"].upper() not in VIEWS:
        return f"view {row['image_view']!r} is neither CC nor MLO"
    if len(pathologies) > 1:
        return f"rows of one lesion with different pathologies ({', '.join(pathologies)})"
    return "" if pathologies[pathology] == number else f"repeats row {pathologies[pathology]}"


def _lesion(
    row: Row,
    where: str,
    abnormality: str,
    split: Literal["train", "test"],
    series: dict[str, list[ImageFile]],
    tests: list[str],
    wanted: list[str],
) -> Lesion | Skipped:
    image = _mammogram(series.get(_series_uid(row["image_file_path"]), []))
    if isinstance(image, str):
        return Skipped(where, image)
    candidates = _mask_candidates(row, series, image)
    if not candidates:
        return Skipped(where, "no file in the lesion's series that could be its mask")
    patient, side, view = (row[key].upper() for key in COLUMNS[:3])
    note = ""
    if split == "train" and tests:
        note = f"the patient is in the {' and the '.join(tests)} test list too"
        if set(tests) & set(wanted):
            split = "test"  # whoever is tested on one kind is not trained on with the other
    return Lesion(
        row=where,
        image_path=image.path,
        region=MaskFile(tuple(file.path for file in candidates)),
        patient=patient,
        image=f"{patient}_{side}_{view}",
        malignant=MALIGNANT[row["pathology"].upper()],
        split=split,
        # masses and calcifications are numbered by themselves
        lesion=f"{patient}_{side}_{'' if abnormality == 'mass' else 'calc'}{row['abnormality_id']}",
        view=view,
        laterality=SIDES[side],
        density=row.get("breast_density", ""),
        abnormality=abnormality,
        subtlety=row.get("subtlety", ""),
        acquisition="film",
        pathology=row["pathology"].upper(),
        note=note,
    )


def _mammogram(files: list[ImageFile]) -> ImageFile | str:
    """The one mammogram of a series, or why there is none."""
    if len(files) > 1:
        files = [file for file in files if "full" in file.description.lower()] or files
    return files[0] if len(files) == 1 else f"{len(files)} files in the mammogram's series, 1 expected"


def _mask_candidates(row: Row, series: dict[str, list[ImageFile]], image: ImageFile) -> list[ImageFile]:
    """The files that may be the lesion's mask: one where headers tell, all of its series where they do not."""
    uids = dict.fromkeys(_series_uid(row[f"{kind}_file_path"]) for kind in ("roi_mask", "cropped_image"))
    files = [file for uid in uids for file in series.get(uid, []) if file.path != image.path]
    files = [file for file in files if not _is_crop(file, image)]
    for rule in (_has_mask_depth, _has_mask_description, lambda file: _lies_on(file, image)):
        chosen = [file for file in files if rule(file)]
        if len(chosen) == 1:
            return chosen
    return files


def _is_crop(file: ImageFile, image: ImageFile) -> bool:
    """Whether a header says that a file is no mask: too deep for one, or a picture that does not lie on the image."""
    return file.bits > 8 or (file.is_picture and bool(file.rows) and not _lies_on(file, image))


def _has_mask_depth(file: ImageFile) -> bool:
    return file.bits == 8 and not file.is_picture  # as pictures, crops have 8 bits too


def _has_mask_description(file: ImageFile) -> bool:
    return "mask" in file.description.lower()


def _lies_on(file: ImageFile, image: ImageFile) -> bool:
    """Whether a file has the mammogram's aspect and about its size, which a crop has not."""
    if not all((file.rows, file.columns, image.rows, image.columns)):
        return False
    change = aspect_change((file.rows, file.columns), (image.rows, image.columns))
    return change <= LARGEST_ASPECT and file.rows > image.rows / 2


def _series_uid(path: str) -> str:
    """`<case>/<StudyUID>/<SeriesUID>/00000N.dcm`, with either slash -> `<SeriesUID>`."""
    parts = path.replace("\\", "/").split("/")
    return parts[-2] if len(parts) > 1 else ""
