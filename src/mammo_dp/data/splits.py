"""Which patient belongs to training, validation and test."""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.resources import files

from mammo_dp.config.schema import Dataset, Source
from mammo_dp.data.records import Lesion, Skipped, Split
from mammo_dp.errors import UserError


@cache
def paper_split() -> dict[str, Split]:
    """CBIS-DDSM patient id -> split of Osuala et al. 2024: 578, 102 and 212 patients.

    Read off the file names of the authors' published patches (paper_split.csv beside this file).
    """
    with files("mammo_dp.data").joinpath("paper_split.csv").open(encoding="utf-8") as file:
        return {row["patient"]: row["split"] for row in csv.DictReader(file)}  # type: ignore[misc]


def official_split(patient: str, official: Split, *, val_fraction: float, seed: int) -> Split:
    """The official split, with a share of the training patients set aside for validation.

    Each patient is assigned by a hash of the own id, so that removing one patient moves no other: a split that
    depended on the others would let one patient's presence show in everybody's place.
    """
    return "val" if official == "train" and _share(f"{seed}:{patient}") < val_fraction else official


def assign(lesion: Lesion, source: Source, data: Dataset) -> Lesion | Skipped:
    """The lesion with its split: external sources are test sets; development sources follow dataset.split.

    `paper` names patients with masses only; whoever has calcifications alone follows the official lists, of which a
    share of the training patients goes to validation. What a custom table or a published folder states stays. Where a
    source states nothing, a share of the patients goes to test, and then a share of the others to validation.
    """
    split = _split(lesion, source, data)
    return (
        replace(lesion, split=split)
        if split
        else Skipped(lesion.row, "patient is in none of the paper's lists")
    )


def _split(lesion: Lesion, source: Source, data: Dataset) -> Split | None:
    if source.role == "external":
        return "test"
    if lesion.split and source.reader in ("release", "custom"):
        return lesion.split
    if data.split == "paper":
        of_paper = paper_split().get(lesion.patient)
        if of_paper is not None or lesion.abnormality == "mass":
            return of_paper
    key = lesion.key or lesion.patient
    tested = not lesion.split and _share(f"test:{data.split_seed}:{key}") < data.test_fraction
    official: Split = "test" if tested else lesion.split or "train"
    return official_split(key, official, val_fraction=data.val_fraction, seed=data.split_seed)


def check_leaks(lesions: Iterable[Lesion]) -> None:
    """Raise UserError if one patient lies in two splits, whatever the kind of lesion.

    The lesions are those of one source, or of several that share their patients' ids.
    """
    first: dict[str, Lesion] = {}
    for lesion in lesions:
        other = first.setdefault(lesion.patient, lesion)
        if lesion.patient and other.split != lesion.split:
            raise UserError(
                f"{other.row} and {lesion.row} put one patient into {other.split} and {lesion.split}, and results on "
                f"{lesion.split} would be worthless; correct the table or the folders"
            )


def _share(key: str) -> float:
    """A number in [0, 1) that follows from the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
