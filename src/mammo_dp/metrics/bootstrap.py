"""Intervals by resampling patients: whole patients are drawn, since images of one patient are alike.

All resamples are computed at once: a resample is a row of weights, how often each prediction's patient was drawn.
"""

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


class Resamples:
    """What ranking metrics of all resamples are computed from. Ties share a threshold.

    true_positives, false_positives: (resamples, thresholds + 1) sums of weights from the highest score down.
    """

    def __init__(self, malignant: np.ndarray, p_malignant: np.ndarray, weights: np.ndarray) -> None:
        """malignant: (n,) of 0 and 1; p_malignant: (n,); weights: (resamples, n)."""
        self.malignant, self.p_malignant, self.weights = malignant, p_malignant, weights
        order = np.argsort(-p_malignant, kind="stable")
        ends = np.flatnonzero(np.diff(p_malignant[order], append=-np.inf) != 0)  # last of each group of ties
        labels = malignant[order].astype(np.float32)
        sorted_weights = weights[:, order]
        self.true_positives = _cumulative(sorted_weights * labels, ends)
        self.false_positives = _cumulative(sorted_weights * (1 - labels), ends)
        self.positives, self.negatives = self.true_positives[:, -1:], self.false_positives[:, -1:]
        self.sensitivity = self.true_positives / self.positives
        self.false_rate = self.false_positives / self.negatives

    def auroc(self) -> np.ndarray:
        """(resamples,) area under the ROC curve by the trapezoidal rule; NaN where one class is missing."""
        steps, sensitivity = np.diff(self.false_rate, axis=1), self.sensitivity
        return (steps * (sensitivity[:, 1:] + sensitivity[:, :-1]) / 2).sum(axis=1)

    def auprc_malignant(self) -> np.ndarray:
        """(resamples,) average precision, malignant positive."""
        return _average_precision(self.true_positives, self.false_positives)

    def auprc_benign(self) -> np.ndarray:
        """(resamples,) average precision, benign positive."""
        return _average_precision(
            (self.negatives - self.false_positives)[:, ::-1], (self.positives - self.true_positives)[:, ::-1]
        )

    def sensitivity_at_specificity(self) -> np.ndarray:
        """(resamples,) the highest sensitivity at a specificity of at least SPECIFICITY."""
        allowed = np.where(self.false_rate <= 1 - SPECIFICITY + 1e-6, self.sensitivity, -np.inf).max(axis=1)
        return np.where(np.isfinite(self.auroc()), allowed, np.nan)

    def ece(self) -> np.ndarray:
        """(resamples,) mean distance over BINS bins of the probability between it and the share of malignant ones."""
        bins = bins_of(self.p_malignant)
        difference = np.zeros((len(bins), BINS), dtype=np.float32)
        difference[np.arange(len(bins)), bins] = self.p_malignant - self.malignant
        return np.abs(self.weights @ difference).sum(axis=1) / self.weights.sum(axis=1)


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


def interval(values: np.ndarray) -> list[float] | None:
    """[low, high] of the middle LEVEL of the resamples, or None where too many of them are not defined."""
    defined = values[np.isfinite(values)]
    if len(defined) < DEFINED * len(values) or not len(defined):
        return None
    return [float(q) for q in np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


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
