"""The data card of an extraction: what is in the patches, where it is from, and what is missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

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
    environment = Environment(
        loader=PackageLoader("mammo_dp.reporting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template("data_card.md.j2").render(
        splits=_splits(index),
        by={column: table for column in BY if (table := _counts(index, column))},
        total=len(index),
        skipped=_reasons(skipped, "reason", skipped["on_purpose"] == 0),
        left_out=_reasons(skipped, "reason", skipped["on_purpose"] == 1),
        notes=_reasons(notes, "note", pd.Series(True, index=notes.index)),
        clusters=clusters,
        conflicts=[cluster for cluster in clusters if len(set(cluster.labels)) > 1],
        leaks=[cluster for cluster in clusters if len(set(cluster.splits)) > 1],
        settings=settings,
        sources=sources,
    )


def _splits(index: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "source": source,
            "split": split,
            "patches": len(rows),
            "benign": int((rows["malignant"] == 0).sum()),
            "malignant": int(rows["malignant"].sum()),
            "patients": rows["patient"].nunique(),
            "images": rows["image"].nunique(),
        }
        for (source, split), rows in index.groupby(["source", "split"], sort=True)
    ]


def _counts(index: pd.DataFrame, column: str) -> list[tuple[str, str, int, int]]:
    """(source, value, benign, malignant), or nothing where no source says anything."""
    if not index[column].any():
        return []
    return [
        (source, value or "not stated", int((rows["malignant"] == 0).sum()), int(rows["malignant"].sum()))
        for (source, value), rows in index.groupby(["source", column], sort=True)
    ]


def _reasons(table: pd.DataFrame, column: str, chosen: pd.Series) -> list[tuple[str, str, int, str]]:
    """(source, reason, number of rows, the first of them), most frequent first."""
    rows = table[chosen]
    counts = Counter(zip(rows["source"], rows[column], strict=True))
    found = []
    for (source, reason), count in counts.most_common():
        of_it = rows.loc[(rows["source"] == source) & (rows[column] == reason), "row"]
        more = ", ..." if count > EXAMPLES else ""
        found.append((source, reason, count, ", ".join(of_it[:EXAMPLES]) + more))
    return found
