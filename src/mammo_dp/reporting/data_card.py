"""What an extraction tells of itself: its data card, its counts, its one line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mammo_dp.reporting.template import template

BY = ("view", "density", "laterality", "abnormality", "acquisition", "pathology")
EXAMPLES = 12  # rows named for each reason


@dataclass(frozen=True)
class Cluster:
    """Copies of one lesion. `rows` of the source's table; `splits` and `patients` that they lie in."""

    source: str
    rows: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    patients: int

    @property
    def contradictory(self) -> bool:
        return len(set(self.labels)) > 1

    @property
    def across_splits(self) -> bool:
        return len(set(self.splits)) > 1


def counts(index: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry a source and split: patches, benign, malignant, patients, images."""
    return [
        {
            "source": str(source),
            "split": str(split),
            "patches": len(rows),
            "benign": int((rows["malignant"].to_numpy() == 0).sum()),
            "malignant": int(rows["malignant"].to_numpy().sum()),
            "patients": rows["patient"].nunique(),
            "images": rows["image"].nunique(),
        }
        for (source, split), rows in index.groupby(["source", "split"], sort=True)  # pyright: ignore
    ]


def metrics(index: pd.DataFrame, skipped: pd.DataFrame, clusters: Sequence[Cluster]) -> dict[str, Any]:
    """{counts: {source: {split: {patches, malignant, patients}}}, rows without a patch by reason, copies}."""
    by_source: dict[str, dict[str, dict[str, int]]] = {}
    for entry in counts(index):
        kept = {key: entry[key] for key in ("patches", "malignant", "patients")}
        by_source.setdefault(entry["source"], {})[entry["split"]] = kept
    failed, left_out = divided(skipped)
    return {
        "counts": by_source,
        "skipped": dict(Counter(failed["reason"])),
        "left_out": dict(Counter(left_out["reason"])),
        "copies": {
            "clusters": len(clusters),
            "contradictory": sum(cluster.contradictory for cluster in clusters),
            "across_splits": sum(cluster.across_splits for cluster in clusters),
        },
    }


def summary(index: pd.DataFrame, skipped: pd.DataFrame, clusters: Sequence[Cluster], *, notes: int) -> str:
    """One line: patches by source and split, rows without one by reason, and what is noteworthy."""
    sizes = ", ".join(f"{entry['source']} {entry['split']} {entry['patches']}" for entry in counts(index))
    parts = [f"{len(index)} patches ({sizes})"]
    failed, left_out = divided(skipped)
    for word, table in (("skipped", failed), ("left out on purpose", left_out)):
        reasons = Counter(table["reason"])
        if len(table) or word == "skipped":
            shown = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
            parts.append(f"{len(table)} {word}{': ' + shown if shown else ''}")
    if clusters:
        several = sum(cluster.across_splits for cluster in clusters)
        both = sum(cluster.contradictory for cluster in clusters)
        parts.append(
            f"copies of {len(clusters)} lesions ({both} with both labels, {several} in more than one split)"
        )
    if notes:
        parts.append(f"{notes} notes in data_card.md")
    return ", ".join(parts)


def divided(skipped: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of skipped.csv that failed, and those that a setting left out."""
    on_purpose = skipped["on_purpose"].astype(bool)
    return skipped.loc[~on_purpose], skipped.loc[on_purpose]


def data_card(
    index: pd.DataFrame,
    skipped: pd.DataFrame,
    notes: pd.DataFrame,
    clusters: Sequence[Cluster],
    *,
    settings: Mapping[str, Any],
    sources: Mapping[str, Mapping[str, str]],
) -> str:
    """Markdown. `index` as in index.csv, `skipped` as in skipped.csv, `notes`: source, row, note of rows with a patch.

    `settings`: split, abnormality, duplicates and the geometry; `sources`: name -> reader, role, licence, citation.
    """
    failed, left_out = divided(skipped)
    return template("data_card.md.j2").render(
        splits=counts(index),
        by={column: table for column in BY if (table := _composition(index, column))},
        skipped=_reasons(failed, "reason"),
        left_out=_reasons(left_out, "reason"),
        notes=_reasons(notes, "note"),
        clusters=clusters,
        settings=settings,
        sources=sources,
    )


def _composition(index: pd.DataFrame, column: str) -> list[tuple[str, str, int, int]]:
    """(source, value, benign, malignant), or nothing where no source says anything."""
    if not index[column].to_numpy().astype(bool).any():
        return []
    return [
        (
            str(source),
            value or "not stated",
            int((rows["malignant"].to_numpy() == 0).sum()),
            int(rows["malignant"].to_numpy().sum()),
        )
        for (source, value), rows in index.groupby(["source", column], sort=True)  # pyright: ignore
    ]


def _reasons(table: pd.DataFrame, column: str) -> list[tuple[str, str, int, str]]:
    """(source, reason, number of rows, the first of them), most frequent first."""
    rows: dict[tuple[str, str], list[str]] = {}
    for source, reason, row in zip(table["source"], table[column], table["row"], strict=True):
        rows.setdefault((source, reason), []).append(row)
    return [
        (source, reason, len(of_it), ", ".join(of_it[:EXAMPLES]) + (", ..." if len(of_it) > EXAMPLES else ""))
        for (source, reason), of_it in sorted(rows.items(), key=lambda item: -len(item[1]))
    ]
