"""Which patient belongs to training, validation and test."""

import csv
import hashlib
from functools import cache
from importlib.resources import files
from typing import Literal

Split = Literal["train", "val", "test"]


@cache
def paper_split() -> dict[str, Split]:
    """CBIS-DDSM patient id -> split of Osuala et al. 2024: 578, 102 and 212 patients.

    Read off the file names of the authors' published patches (paper_split.csv beside this file).
    """
    with files("mammo_dp.data").joinpath("paper_split.csv").open(encoding="utf-8", newline="") as file:
        return {row["patient"]: row["split"] for row in csv.DictReader(file)}  # type: ignore[misc]


def official_split(patient: str, official: Split, *, val_fraction: float, seed: int) -> Split:
    """The official split, with a share of the training patients set aside for validation.

    Each patient is assigned by a hash of the own id, so that removing one patient moves no other: a split that
    depended on the others would let one patient's presence show in everybody's place.
    """
    if official != "train":
        return official
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") / 2**64 < val_fraction else "train"
