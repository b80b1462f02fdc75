"""Beyond Table 1: each row per patch, lesion and patient, and by subgroup."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from mammo_dp.metrics.classification import METRICS
from mammo_dp.reporting.table1 import Study

LEVELS = ("patch", "lesion", "patient")
DETAILS = tuple(name for name, metric in METRICS.items() if metric.in_details)


def details(study: Study) -> pd.DataFrame:
    """One line a row, test set and group of predictions (a level, or a value of a subgroup): means over seeds.

    Intervals are those of each seed's own predictions, averaged end by end.
    """
    lines = []
    for row in study.rows:
        for source in study.sources:
            found: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for run in row.runs:
                for key, metrics in _groups(run.test.get(source)):
                    found.setdefault(key, []).append(metrics)
            for (kind, value), every in found.items():
                line: dict[str, Any] = {
                    "experiment": row.setup, "epsilon": row.epsilon, "privacy": row.privacy, "test_set": source,
                    "of": kind, "value": value, "n": every[0]["n"], "n_malignant": every[0]["n_malignant"],
                }  # fmt: skip
                for metric in DETAILS:
                    line[metric] = _mean([metrics[metric] for metrics in every])
                    ends = [metrics["intervals"].get(metric) for metrics in every]
                    if all(pair is not None for pair in ends) and metric in every[0]["intervals"]:
                        line[f"{metric}_low"] = _mean([pair[0] for pair in ends if pair])
                        line[f"{metric}_high"] = _mean([pair[1] for pair in ends if pair])
                lines.append(line)
    return pd.DataFrame(lines)


def _groups(test: dict[str, Any] | None) -> Iterable[tuple[tuple[str, str], dict[str, Any]]]:
    if test is None or "intervals" not in test:
        return
    yield ("level", "patch"), test
    for level in LEVELS[1:]:
        if level in test:
            yield ("level", level), test[level]
    for column, values in test["subgroups"].items():
        for value, metrics in values.items():
            yield (column, value), metrics


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None
