"""How well scores tell malignant from benign: every metric, declared once.

`METRICS` says of each how it is computed, how it is resampled, what it is called and where it is shown.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    roc_auc_score,
    roc_curve,
)
from torchmetrics.functional.classification import binary_calibration_error

from mammo_dp.metrics.bootstrap import BINS, SPECIFICITY, Resamples, interval

Value = Callable[[np.ndarray, np.ndarray], float | int]


@dataclass(frozen=True)
class Metric:
    """One number of a test set. malignant: (n,) of 0 and 1; p_malignant: (n,) in [0, 1]."""

    name: str  # its key in metrics.json
    label: str
    value: Value
    resampled: Callable[[Resamples], np.ndarray] | None = (
        None  # of every resample; None: no interval is given
    )
    ranks: bool = False  # it needs both classes, and is None where one is missing
    in_table: str = ""  # its head in Table 1; "": not there
    in_card: bool = False  # of a model
    in_details: bool = False
    chance: str | float | None = None  # what guessing gives: a number, or the metric that says it


def auprc_benign(malignant: np.ndarray, p_malignant: np.ndarray) -> float:
    """Average precision with benign as the positive class, as every AUPRC of the paper."""
    return float(average_precision_score(1 - malignant, 1 - p_malignant))


def cross_entropy(
    malignant: np.ndarray,
    p_malignant: np.ndarray,
    *,
    label_smoothing: float = 0.0,
    batch_size: int | None = None,
) -> float:
    """Mean negative log likelihood, nats, of targets smoothed towards 1/2; the mean over batches, if there are any.

    The published code averages the loss of each batch, so that an image of a smaller last batch counts for more.
    """
    p = np.clip(p_malignant, np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
    target = (1 - label_smoothing) * malignant + label_smoothing / 2
    losses = -(target * np.log(p) + (1 - target) * np.log1p(-p))
    size = batch_size or len(losses)
    return float(np.mean([losses[k : k + size].mean() for k in range(0, len(losses), size)]))


def _sensitivity(malignant: np.ndarray, p_malignant: np.ndarray) -> float:
    false_rate, sensitivity, _ = roc_curve(malignant, p_malignant, drop_intermediate=False)
    return float(sensitivity[false_rate <= 1 - SPECIFICITY + 1e-6].max())


def calibration_error(malignant: np.ndarray, p_malignant: np.ndarray) -> float:
    """Mean distance between the predicted probability of malignant and the share of malignant ones, over the bins."""
    scores, labels = torch.tensor(p_malignant, dtype=torch.float64), torch.tensor(malignant)
    return float(binary_calibration_error(scores, labels, n_bins=BINS))


# ECE is over bins of equal width. Accuracy and F1 take malignant as positive at p >= 0.5. The threshold of the
# sensitivity is chosen on this very set.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "auroc", "AUROC", lambda y, p: float(roc_auc_score(y, p)), Resamples.auroc,
            ranks=True, in_table="AUROC", in_card=True, in_details=True, chance=0.5,
        ),
        Metric(
            "auprc_benign", "AUPRC benign", auprc_benign, Resamples.auprc_benign,
            ranks=True, in_table="AUPRC", in_card=True, in_details=True, chance="prevalence_benign",
        ),
        Metric(
            "prevalence_benign", "its chance line", lambda y, p: float(1 - y.mean()), in_details=True,
        ),
        Metric(
            "auprc_malignant", "AUPRC malignant", lambda y, p: float(average_precision_score(y, p)),
            Resamples.auprc_malignant,
            ranks=True, in_card=True, in_details=True, chance="prevalence_malignant",
        ),
        Metric("prevalence_malignant", "its chance line", lambda y, p: float(y.mean()), in_details=True),
        Metric(
            "sensitivity_at_90_specificity", "sensitivity at 90 % specificity", _sensitivity,
            Resamples.sensitivity_at_specificity, ranks=True, in_details=True,
        ),
        Metric("ece", "ECE", calibration_error, Resamples.ece, in_details=True),
        Metric("accuracy", "accuracy", lambda y, p: float(accuracy_score(y, p >= 0.5))),
        Metric("f1", "F1", lambda y, p: float(f1_score(y, p >= 0.5, zero_division=0.0))),  # type: ignore[arg-type]
        Metric("n", "n", lambda y, p: len(y)),
        Metric("n_malignant", "n malignant", lambda y, p: int(y.sum())),
    )
}  # fmt: skip
IN_TABLE = {name: metric.in_table for name, metric in METRICS.items() if metric.in_table}


def binary_metrics(malignant: np.ndarray, p_malignant: np.ndarray) -> dict[str, float | int | None]:
    """All metrics of one test set. What is not defined for it (a ranking metric where one class is missing) is None."""
    both = 0 < malignant.sum() < len(malignant)
    return {
        name: metric.value(malignant, p_malignant) if both or not metric.ranks else None
        for name, metric in METRICS.items()
    }


def weighted_metrics(
    malignant: np.ndarray, p_malignant: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Each metric that has intervals, in each resample; NaN where it is not defined there.

    malignant: (n,) of 0 and 1; p_malignant: (n,); weights: (resamples, n).
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # where a class is missing
        resamples = Resamples(malignant, p_malignant, weights)
        return {name: m.resampled(resamples) for name, m in METRICS.items() if m.resampled is not None}


def intervals(
    malignant: np.ndarray, p_malignant: np.ndarray, weights: np.ndarray
) -> dict[str, list[float] | None]:
    """The interval of every metric that has one."""
    return {name: interval(v) for name, v in weighted_metrics(malignant, p_malignant, weights).items()}
