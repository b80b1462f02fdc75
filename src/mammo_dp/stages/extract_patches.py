"""`stage=extract_patches`: raw mammograms or published patches -> 128x128 8-bit PNGs, index.csv, skipped.csv."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_dp.artifacts import Artifact, Output, StageResult, sha256
from mammo_dp.config import Config, Patches, Source
from mammo_dp.data import patches, splits, toy
from mammo_dp.data.images import read_grey, read_mask, why_unreadable
from mammo_dp.data.patch_set import INDEX, INDEX_COLUMNS, write_patch
from mammo_dp.data.patches import Box
from mammo_dp.data.readers import READERS
from mammo_dp.data.records import Lesion, MaskFile, Outline, Skipped
from mammo_dp.data.sources import source_folders, toy_identity
from mammo_dp.errors import UserError
from mammo_dp.progress import track


def check(config: Config) -> None:
    """Refuse a split that the sources cannot have."""
    if config.dataset.split != "paper" and any(
        s.reader == "release" for s in config.dataset.sources.values()
    ):
        raise UserError("the published patches come split as in the paper; use dataset.split=paper")


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    data = config.dataset
    if data.toy is not None:
        toy.ensure(data.toy, Path(data.root or "") / toy_identity(data.toy))
    index: list[dict[str, object]] = []
    skipped: list[dict[str, str]] = []
    for name, folder in source_folders(data).items():
        if not folder.is_dir():
            continue  # an optional source; the pipeline has refused the others
        lesions = []
        for record in READERS[data.sources[name].reader](folder):
            record = record if isinstance(record, Skipped) else _assign(record, config, data.sources[name])
            if isinstance(record, Skipped):
                skipped.append({"source": name, **asdict(record)})
            else:
                lesions.append(record)
        for number, (lesion, outcome) in enumerate(_cut_all(lesions, config.patches, name), start=len(index)):
            if isinstance(outcome, Skipped):
                skipped.append({"source": name, **asdict(outcome)})
            else:
                index.append(
                    write_patch(
                        number, lesion, *outcome, source=name, split=lesion.split, folder=output.folder
                    )
                )
    table = pd.DataFrame(index, columns=pd.Index(INDEX_COLUMNS))
    table.to_csv(output.folder / INDEX, index=False)
    pd.DataFrame(skipped, columns=pd.Index(["source", "row", "reason"])).to_csv(
        output.folder / "skipped.csv", index=False
    )
    summary = _summary(table, skipped)
    if len(skipped) > data.max_skipped * (len(index) + len(skipped)):
        raise UserError(
            f"too many rows without a patch: {summary}. Mend the data, or allow it with dataset.max_skipped=FRACTION"
        )
    return StageResult(metrics=_counts(table, skipped), summary=summary)


def _assign(lesion: Lesion, config: Config, source: Source) -> Lesion | Skipped:
    """The lesion with its split: external sources are test sets; development sources follow dataset.split."""
    data = config.dataset
    if source.role == "external":
        split: splits.Split = "test"
    elif source.reader == "release":
        split = lesion.split or "test"
    elif data.split == "paper":
        if lesion.patient not in splits.paper_split():
            return Skipped(lesion.row, "patient is in none of the paper's lists")
        split = splits.paper_split()[lesion.patient]
    else:
        split = splits.official_split(
            lesion.patient, lesion.split or "test", val_fraction=data.val_fraction, seed=data.split_seed
        )
    return Lesion(**{**lesion.__dict__, "split": split})


def _cut_all(
    lesions: list[Lesion], settings: Patches, source: str
) -> Iterator[tuple[Lesion, tuple[np.ndarray, Box, str] | Skipped]]:
    """Each lesion with its patch, source box and the image's SHA-256; an image is read once for all its lesions."""
    grouped = groupby(sorted(lesions, key=lambda lesion: str(lesion.image_path)), key=lambda x: x.image_path)
    groups = [(path, list(group)) for path, group in grouped]
    for path, group in track(groups, f"patches of {source}"):
        try:
            image, digest = read_grey(path), sha256(path)
        except (ValueError, OSError) as error:
            yield from ((lesion, Skipped(lesion.row, why_unreadable(error, path))) for lesion in group)
            continue
        for lesion in group:
            try:
                patch, box = _cut(image, lesion, settings)
                yield lesion, (patch, box, digest)
            except (ValueError, OSError) as error:
                yield lesion, Skipped(lesion.row, why_unreadable(error, path))


def _cut(image: np.ndarray, lesion: Lesion, settings: Patches) -> tuple[np.ndarray, Box]:
    height, width = image.shape
    match lesion.region:
        case MaskFile(path):
            mask = read_mask(path, shape=(height, width))
            box = patches.box_of_mask(mask, largest_blob=settings.box == "contour")
        case Outline(points):
            box = patches.box_of_outline(points, shape=(height, width))
        case _:
            return patches.whole(image, settings.size)
    square = patches.window(box, shape=(height, width), margin=settings.margin, min_side=settings.min_side)
    return patches.resize(patches.cut(image, square), settings.size), box


def _counts(table: pd.DataFrame, skipped: list[dict[str, str]]) -> dict[str, object]:
    """{source: {split: {patches, malignant, patients}}} and the number of skipped rows by reason."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (source, split), rows in table.groupby(["source", "split"]):
        counts.setdefault(str(source), {})[str(split)] = {
            "patches": len(rows),
            "malignant": int(rows["malignant"].sum()),
            "patients": int(rows["patient"].nunique()),
        }
    return {"counts": counts, "skipped": dict(Counter(row["reason"] for row in skipped))}


def _summary(table: pd.DataFrame, skipped: list[dict[str, str]]) -> str:
    sizes = ", ".join(f"{s} {p} {len(rows)}" for (s, p), rows in table.groupby(["source", "split"]))
    reasons = "; ".join(f"{n} x {why}" for why, n in Counter(r["reason"] for r in skipped).most_common(5))
    return f"{len(table)} patches ({sizes}), {len(skipped)} skipped{': ' + reasons if reasons else ''}"
