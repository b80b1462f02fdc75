"""Intervals by resampling patients: whole patients are drawn, since images of one patient are alike.

All resamples are computed at once: a resample is a row of weights, how often each prediction's patient was drawn.
"""

from collections.abc import Mapping

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
DEFINED = 0.9  # share of the resamples in which a metric must be defined for its interval to be given
BINS = 10  # of equal width, of the calibration error
SPECIFICITY = 0.9


def patient_draws(patients: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(resamples, n) float32: how often the patient of each of n predictions was drawn, with replacement.

    patients: (n,) str. A prediction whose patient is not known ("") is a patient of its own.
    """
    known = np.where(patients == "", [f"\0{row}" for row in range(len(patients))], patients)
    _, of_row = np.unique(known, return_inverse=True)
    count = int(of_row.max()) + 1 if len(of_row) else 0
    if not count:
        return np.zeros((resamples, 0), dtype=np.float32)
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    flat = drawn + count * np.arange(resamples)[:, None]
    times = np.bincount(flat.ravel(), minlength=resamples * count).reshape(resamples, count)
    return times.astype(np.float32)[:, of_row]


def weighted_metrics(
    malignant: np.ndarray, p_malignant: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Each metric in each resample, NaN where it is not defined there.

    malignant: (n,) of 0 and 1; p_malignant: (n,); weights: (resamples, n). Ties share a threshold. AUROC is the area
    by the trapezoidal rule, AUPRC average precision, sensitivity the highest at a specificity of at least SPECIFICITY,
    ECE the mean distance over BINS bins of the probability between it and the share of malignant ones.
    """
    order = np.argsort(-p_malignant, kind="stable")
    ends = np.flatnonzero(np.diff(p_malignant[order], append=-np.inf) != 0)  # last of each group of ties
    labels = malignant[order].astype(np.float32)
    sorted_weights = weights[:, order]
    true_positives = _cumulative(sorted_weights * labels, ends)
    false_positives = _cumulative(sorted_weights * (1 - labels), ends)
    positives, negatives = true_positives[:, -1:], false_positives[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, false_rate = true_positives / positives, false_positives / negatives
        steps = np.diff(false_rate, axis=1)
        auroc = (steps * (sensitivity[:, 1:] + sensitivity[:, :-1]) / 2).sum(axis=1)
        allowed = np.where(false_rate <= 1 - SPECIFICITY + 1e-6, sensitivity, -np.inf).max(axis=1)
        return {
            "auroc": auroc,
            "auprc_benign": _average_precision(
                (negatives - false_positives)[:, ::-1], (positives - true_positives)[:, ::-1]
            ),
            "auprc_malignant": _average_precision(true_positives, false_positives),
            "sensitivity_at_90_specificity": np.where(np.isfinite(auroc), allowed, np.nan),
            "ece": _calibration_error(malignant, p_malignant, weights),
        }


def _cumulative(weights: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(resamples, groups + 1) sums of the weights down to each threshold, from nothing."""
    total = np.cumsum(weights, axis=1, dtype=np.float32)[:, ends]
    return np.concatenate([np.zeros((len(weights), 1), np.float32), total], axis=1)


def _average_precision(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    precision = true_positives[:, 1:] / (true_positives[:, 1:] + false_positives[:, 1:])
    steps = np.diff(true_positives, axis=1)
    found = np.where(steps > 0, precision * steps, 0.0).sum(axis=1)
    one_class = (true_positives[:, -1] == 0) | (false_positives[:, -1] == 0)
    return np.where(one_class, np.nan, found / true_positives[:, -1])


def bins_of(p_malignant: np.ndarray) -> np.ndarray:
    """(n,) which of BINS bins of equal width each probability falls into."""
    return np.minimum((p_malignant * BINS).astype(int), BINS - 1)


def _calibration_error(malignant: np.ndarray, p_malignant: np.ndarray, weights: np.ndarray) -> np.ndarray:
    bins = bins_of(p_malignant)
    difference = np.zeros((len(bins), BINS), dtype=np.float32)
    difference[np.arange(len(bins)), bins] = p_malignant - malignant
    return np.abs(weights @ difference).sum(axis=1) / weights.sum(axis=1)


def interval(values: np.ndarray) -> list[float] | None:
    """[low, high] of the middle LEVEL of the resamples, or None where too many of them are not defined."""
    defined = values[np.isfinite(values)]
    if len(defined) < DEFINED * len(values) or not len(defined):
        return None
    return [float(q) for q in np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def intervals(
    malignant: np.ndarray, p_malignant: np.ndarray, weights: np.ndarray
) -> Mapping[str, list[float] | None]:
    """The interval of every metric."""
    return {
        name: interval(values) for name, values in weighted_metrics(malignant, p_malignant, weights).items()
    }


def paired_difference(one: np.ndarray, other: np.ndarray, *, seen: float) -> dict[str, float | None]:
    """Of one metric in the same resamples of two rows: the difference that was seen, its interval, and a p value.

    p: twice the share of resamples on the other side of zero, at least 2 / resamples.
    """
    difference = (one - other)[np.isfinite(one - other)]
    found = interval(one - other)
    if found is None:
        return {"difference": seen, "low": None, "high": None, "p": None}
    tail = min(float((difference <= 0).mean()), float((difference >= 0).mean()))
    p = min(1.0, max(2 * tail, 2 / len(difference)))
    return {"difference": seen, "low": found[0], "high": found[1], "p": p}
