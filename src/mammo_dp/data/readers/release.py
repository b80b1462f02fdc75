"""Reader of the patches that the paper's authors published (dataset16062024 of github.com/RichardObi/mammo_dp).

Folders: {train,val,test}/is_benign_{true,false}/*.png, any of which may be absent. File names:
patient{dataset}__{patient}_image{uid}_mass{patch}_is_benign_{0,1}.png
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Skipped, Split, WholeImage

NAME = re.compile(r"patient[^_]+__(?P<patient>.+)_image(?P<image>.+)_mass\d+_is_benign_(?P<benign>[01])\.png")


def read(request: Request) -> Iterator[Lesion | Skipped]:
    """Every PNG below the folders of the published layout, in sorted order."""
    for split in get_args(Split):
        for folder, benign in (("is_benign_true", True), ("is_benign_false", False)):
            for path in sorted((request.folder / split / folder).glob("*.png")):
                yield _lesion(path, split, benign=benign, row=f"{split}/{folder}/{path.name}")


def _lesion(path: Path, split: Split, *, benign: bool, row: str) -> Lesion | Skipped:
    name = NAME.fullmatch(path.name)
    if name is None:
        return Skipped(row, "file name is not of the published form")
    if (name["benign"] == "1") != benign:
        return Skipped(row, "label in the file name contradicts the folder")
    return Lesion(
        row=row,
        image_path=path,
        region=WholeImage(),
        patient=name["patient"],
        image=name["image"],
        malignant=not benign,
        split=split,
        pathology="benign" if benign else "malignant",
    )
