"""`stage=extract_patches`: raw mammograms or published patches -> 128x128 8-bit PNGs and what is known of them.

Writes index.csv, skipped.csv, pictures.npy, contact_sheet.png and data_card.md beside the patches.
"""

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from mammo_dp.config import Config
from mammo_dp.data import duplicates, splits, toy
from mammo_dp.data.cutting import CutImage, Geometry, Place, Task
from mammo_dp.data.journal import cut_all
from mammo_dp.data.patch_set import INDEX, INDEX_COLUMNS, index_row, patch_name, write_pictures
from mammo_dp.data.pseudonyms import check_writable
from mammo_dp.data.readers import READERS
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Skipped
from mammo_dp.data.sources import pseudonyms_of, source_folders, table_of, toy_identity
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.reporting.contact_sheet import chosen, contact_sheet
from mammo_dp.reporting.data_card import Cluster, data_card, divided, metrics, summary

SKIPPED_COLUMNS = ("source", "row", "reason", "on_purpose")
Note = tuple[str, str, str]  # source, row, what to know of it
ROOM = 64 * 2**20  # bytes that must stay free beside the patches


@dataclass
class Found:
    """What the readers gave: lesions by number, and rows without one. Sources by their name in the configuration."""

    lesions: list[tuple[str, Lesion]]
    skipped: list[tuple[str, Skipped]]

    def source(self, number: int) -> str:
        """The name in the index."""
        name, lesion = self.lesions[number]
        return lesion.source or name

    def path(self, number: int) -> str:
        lesion = self.lesions[number][1]
        return patch_name(number, source=self.source(number), split=lesion.split, malignant=lesion.malignant)


def check(config: Config) -> None:
    """Refuse a split or a kind of lesion that the sources cannot have, and pseudonyms that could not be kept."""
    data = config.dataset
    for name, source in data.sources.items():
        if source.reader not in READERS:
            raise UserError(
                f"dataset.sources.{name}.reader={source.reader} is not known; choose one of {', '.join(READERS)}"
            )
    readers = {source.reader for source in data.sources.values() if source.role == "development"}
    if "release" in readers and data.split != "paper":
        raise UserError("the published patches come split as in the paper; use dataset.split=paper")
    if "release" in readers and data.abnormality != "mass":
        raise UserError("the published patches are masses only; use dataset.abnormality=mass")
    if readers & {"custom", "bcdr"} and data.split == "paper":
        raise UserError("the paper names patients of CBIS-DDSM only; use dataset.split=official")
    for name, folder in source_folders(data).items():
        if data.sources[name].reader == "custom":
            file = pseudonyms_of(data, folder)
            outputs = Path(config.outputs)
            if file.resolve().is_relative_to(outputs.resolve()) or file.absolute().is_relative_to(
                outputs.absolute()
            ):
                raise UserError(
                    "the file of pseudonyms would lie below outputs/, whose content may be shown to others; set "
                    "dataset.pseudonyms=FILE to a private place"
                )
            check_writable(file)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    try:
        return _extract(config, output)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            "the disk is full; free some space and run the same command again: it resumes"
        ) from None


def _extract(config: Config, output: Output) -> StageResult:
    found = _read(config, output.cache)
    _check_room(output.folder, len(found.lesions) * (config.patches.size**2 + 1024))
    images = _cut(config, found, output)
    clusters, copies = _copies(config, found, images)
    rows, notes = _divide(found, images, copies)
    notes += _contradictions(found, rows)
    index = pd.DataFrame(rows.values(), columns=pd.Index(INDEX_COLUMNS))
    skipped = pd.DataFrame(
        [{"source": source, **asdict(row)} for source, row in found.skipped],
        columns=pd.Index(SKIPPED_COLUMNS),
    )
    skipped["on_purpose"] = skipped["on_purpose"].astype(int)
    index.to_csv(output.folder / INDEX, index=False)
    skipped.to_csv(output.folder / "skipped.csv", index=False)
    text = summary(index, skipped, clusters, notes=len(notes))
    failed = len(divided(skipped)[0])
    if failed > config.dataset.max_skipped * (len(index) + failed) or not len(index):
        raise UserError(
            f"too many rows without a patch: {text}. {output.folder}/skipped.csv names each; correct the data, "
            "or allow it with dataset.max_skipped=FRACTION"
        )
    _remove_others(output.folder, set(index["patch"]))
    _write_sheet(output.folder, rows, images)
    write_pictures(output.folder, {images[n].sha256: images[n].thumbnail for n in rows})
    remarks = pd.DataFrame(notes, columns=pd.Index(["source", "row", "note"]))
    card = data_card(index, skipped, remarks, clusters, settings=_stated(config), sources=_sources(config))
    (output.folder / "data_card.md").write_text(card, encoding="utf-8")
    return StageResult(metrics=metrics(index, skipped, clusters), summary=text)


# --- reading ------------------------------------------------------------------------------------------------------


def _read(config: Config, cache: Cache) -> Found:
    data = config.dataset
    if data.toy is not None:
        toy.ensure(data.toy, Path(data.root or "") / toy_identity(data.toy))
    found = Found([], [])
    pseudonymous: list[Lesion] = []  # may be of one patient even in two sources
    for name, folder in source_folders(data).items():
        if not folder.is_dir():
            continue  # an optional source; the pipeline has refused the others
        source, own = data.sources[name], []
        for record in READERS[source.reader](_request(config, name, folder, cache)):
            record = record if isinstance(record, Skipped) else splits.assign(record, source, data)
            if isinstance(record, Skipped):
                found.skipped.append((name, record))
            else:
                own.append(record)
        pseudonymous += own if source.reader == "custom" else []
        splits.check_leaks(pseudonymous if source.reader == "custom" else own)
        found.lesions += [(name, lesion) for lesion in own]
    return found


def _request(config: Config, name: str, folder: Path, cache: Cache) -> Request:
    data = config.dataset
    if data.sources[name].reader != "custom":
        return Request(folder, data.abnormality, cache)
    return Request(folder, data.abnormality, cache, table_of(data, folder), pseudonyms_of(data, folder))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + ROOM:
        raise UserError(
            f"the patches may need {needed / 2**20:.0f} MB and the disk of outputs/ has {free / 2**20:.0f} MB free "
            f"({ROOM / 2**20:.0f} MB are to stay so); free some space, or set outputs=FOLDER on another disk"
        )


# --- cutting ------------------------------------------------------------------------------------------------------


def _cut(config: Config, found: Found, output: Output) -> dict[int, CutImage]:
    """What came of each image, by the number of each of its lesions."""
    geometry = Geometry(**config.patches.model_dump())
    by_image = sorted(range(len(found.lesions)), key=lambda n: (str(found.lesions[n][1].image_path), n))
    tasks = [
        Task(path, tuple((number, found.lesions[number][1].region) for number in numbers), geometry)
        for path, numbers in groupby(by_image, key=lambda n: found.lesions[n][1].image_path)
    ]
    images: dict[int, CutImage] = {}
    for image in cut_all(
        tasks,
        journal=output.folder / "done.jsonl",
        path_of=lambda number: output.folder / found.path(number),
        workers=config.runtime.workers,
    ):
        images |= dict.fromkeys(image.outcomes, image)
    return images


def _remove_others(folder: Path, names: set[str]) -> None:
    """Patches that are in no row: copies that are dropped, and what a killed run left of a file that has changed."""
    for path in sorted(folder.glob("*/*/*/*.png")):
        if path.relative_to(folder).as_posix() not in names:
            path.unlink()


# --- copies -------------------------------------------------------------------------------------------------------


def _copies(
    config: Config, found: Found, images: Mapping[int, CutImage]
) -> tuple[list[Cluster], dict[int, str]]:
    """All clusters of copies, and the numbers that dataset.duplicates drops, each with the reason.

    Of development sources nothing is dropped: whether a patch stays must not depend on another one, or a guarantee for
    each of them would not hold.
    """
    clusters: list[Cluster] = []
    reasons: dict[int, str] = {}
    for (name, source), kind in product(config.dataset.sources.items(), ("mass", "calc")):
        cuts = [
            duplicates.Cut(
                number, images[number].thumbnail, images[number].shape, place.box, lesion.malignant
            )
            for number, (of_source, lesion) in enumerate(found.lesions)
            if (of_source, lesion.abnormality) == (name, kind)
            and isinstance(place := images[number].outcomes[number], Place)
        ]
        for cluster in duplicates.clusters(cuts):
            clusters.append(_described(name, [found.lesions[cut.number][1] for cut in cluster]))
            if source.role == "external":
                members, why = duplicates.dropped(cluster, config.dataset.duplicates)
                reasons |= {member.number: why for member in members}
    return clusters, reasons


def _described(source: str, lesions: Sequence[Lesion]) -> Cluster:
    return Cluster(
        source,
        [lesion.row for lesion in lesions],
        ["malignant" if lesion.malignant else "benign" for lesion in lesions],
        [lesion.split for lesion in lesions],
        len({lesion.patient for lesion in lesions}),
    )


# --- writing ------------------------------------------------------------------------------------------------------


def _divide(
    found: Found, images: Mapping[int, CutImage], copies: Mapping[int, str]
) -> tuple[dict[int, dict[str, object]], list[Note]]:
    """The index's rows by number, and notes about them; what gave no patch is added to `found.skipped`."""
    rows: dict[int, dict[str, object]] = {}
    notes: list[Note] = []
    for number, (source, lesion) in enumerate(found.lesions):
        place = images[number].outcomes[number]
        if isinstance(place, str):
            found.skipped.append((source, Skipped(lesion.row, place)))
        elif number in copies:
            found.skipped.append((source, Skipped(lesion.row, copies[number], on_purpose=True)))
        else:
            rows[number] = index_row(
                found.path(number), lesion, place.box, images[number].sha256,
                source=found.source(number), split=lesion.split,
            )  # fmt: skip
            notes += [(source, lesion.row, note) for note in (lesion.note, place.note) if note]
    return rows, notes


def _contradictions(found: Found, rows: Mapping[int, Mapping[str, object]]) -> list[Note]:
    """Notes about what no single row tells: a file of two patients, a lesion of two labels."""
    notes: list[Note] = []
    for column, of, note in (
        ("source_sha256", "patient", "the same image file belongs to two patients"),
        ("lesion", "malignant", "rows of one lesion with different labels"),
    ):
        values: dict[object, set[object]] = {}
        for row in rows.values():
            values.setdefault(row[column], set()).add(row[of])
        notes += [
            (found.lesions[number][0], found.lesions[number][1].row, note)
            for number, row in rows.items()
            if row[column] and len(values[row[column]]) > 1
        ]
    return notes


def _write_sheet(
    folder: Path, rows: Mapping[int, Mapping[str, object]], images: Mapping[int, CutImage]
) -> None:
    groups: dict[str, list[int]] = {}
    for number, row in rows.items():
        label = f"{row['source']}\n{row['split']}\n{'malignant' if row['malignant'] else 'benign'}"
        groups.setdefault(label, []).append(number)
    shown = {label: chosen(numbers, label=label) for label, numbers in sorted(groups.items())}
    patches, outlines = {}, {}
    for number in (number for numbers in shown.values() for number in numbers):
        png = np.fromfile(folder / str(rows[number]["patch"]), np.uint8)
        place = images[number].outcomes[number]
        assert isinstance(place, Place)  # a lesion with a row has a patch
        patches[number] = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
        outlines[number] = place.outline
    sheet = cv2.imencode(".png", contact_sheet(shown, patches, outlines))[1]  # type: ignore[arg-type]
    (folder / "contact_sheet.png").write_bytes(sheet.tobytes())


def _stated(config: Config) -> dict[str, Any]:
    data = config.dataset
    stated = {"split": data.split, "abnormality": data.abnormality, "duplicates": data.duplicates}
    return stated | config.patches.model_dump()


def _sources(config: Config) -> dict[str, dict[str, str]]:
    folders = source_folders(config.dataset)
    return {
        name: source.model_dump(include={"reader", "role", "licence", "citation"})
        for name, source in config.dataset.sources.items()
        if folders[name].is_dir()
    }
