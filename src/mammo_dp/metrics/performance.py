"""What a classifier is worth on one test set: per patch, lesion and patient, and by subgroup, with intervals."""

from typing import Any

import numpy as np
import pandas as pd

from mammo_dp.metrics.bootstrap import patient_draws
from mammo_dp.metrics.classification import binary_metrics, intervals

SUBGROUPS = ("view", "density", "subtlety", "acquisition", "abnormality")  # columns of a patch set's index


def performance(index: pd.DataFrame, patients: np.ndarray, p_malignant: np.ndarray) -> dict[str, Any]:
    """All metrics of one test set.

    index: (n,) rows with malignant, lesion and SUBGROUPS; patients: (n,) str, "" where not known. Per patch at the top
    level, with "intervals" (95 %, whole patients resampled); "lesion": a lesion's score is the mean over its views;
    "patient": the highest of the patient's lesions, malignant if one of them is. Both are left out where the ids that
    they need are not known. "subgroups": column -> value -> metrics of its patches.
    """
    malignant = index["malignant"].to_numpy(np.int64)
    draws = patient_draws(patients)
    found = _with_intervals(malignant, p_malignant, draws)
    table = pd.DataFrame(
        {"patient": patients, "lesion": index["lesion"].to_numpy(), "malignant": malignant, "p": p_malignant}
    ).assign(row=np.arange(len(index)))
    if len(table) and (table["patient"].to_numpy() != "").all():
        if (table["lesion"].to_numpy() != "").all():
            by_lesion = table.groupby(["patient", "lesion"], sort=False)
            table = by_lesion.agg(
                malignant=("malignant", "max"), p=("p", "mean"), row=("row", "first")
            ).reset_index()
            found["lesion"] = _of(table, draws)
        by_patient = table.groupby("patient", sort=False)
        found["patient"] = _of(
            by_patient.agg(malignant=("malignant", "max"), p=("p", "max"), row=("row", "first")), draws
        )
    found["subgroups"] = {
        column: {
            value: _with_intervals(malignant[rows], p_malignant[rows], draws[:, rows])
            for value in sorted(set(index[column]) - {""})
            if (rows := np.flatnonzero(index[column].to_numpy() == value)).size
        }
        for column in SUBGROUPS
        if len(index[column].unique()) > 1
    }
    return found


def _of(table: pd.DataFrame, draws: np.ndarray) -> dict[str, Any]:
    """Of lesions or patients; each has the weights of one of its patches, which all of its patient's share."""
    columns = (table["malignant"].to_numpy(np.int64), table["p"].to_numpy(float))
    return _with_intervals(*columns, draws[:, table["row"].to_numpy(int)])


def _with_intervals(malignant: np.ndarray, p_malignant: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = binary_metrics(malignant, p_malignant)
    found["intervals"] = {
        name: ends if found[name] is not None else None
        for name, ends in intervals(malignant, p_malignant, draws).items()
    }
    return found
