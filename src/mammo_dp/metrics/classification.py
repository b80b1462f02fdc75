"""How well scores tell malignant from benign."""

import numpy as np
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    roc_auc_score,
    roc_curve,
)
from torchmetrics.functional.classification import binary_calibration_error

from mammo_dp.metrics.bootstrap import BINS, SPECIFICITY


def auprc_benign(malignant: np.ndarray, p_malignant: np.ndarray) -> float:
    """Average precision with benign as the positive class, as every AUPRC of the paper."""
    return float(average_precision_score(1 - malignant, 1 - p_malignant))


def cross_entropy(malignant: np.ndarray, p_malignant: np.ndarray) -> float:
    """Mean negative log likelihood, nats."""
    return float(log_loss(malignant, np.clip(p_malignant, 1e-7, 1 - 1e-7), labels=[0, 1]))


def binary_metrics(malignant: np.ndarray, p_malignant: np.ndarray) -> dict[str, float | int | None]:
    """All metrics of one test set. malignant: (n,) of 0 and 1; p_malignant: (n,) in [0, 1].

    Accuracy and F1 take malignant as positive at p >= 0.5; sensitivity is the highest at a specificity of at least
    90 %, its threshold chosen on this very set; `ece`, the expected calibration error, is over 10 bins of equal width;
    the prevalences are the chance lines of the two AUPRC. What is not defined for the set at hand (a ranking metric
    where one class is missing) is None.
    """
    both = 0 < malignant.sum() < len(malignant)
    predicted = (p_malignant >= 0.5).astype(int)
    return {
        "auroc": float(roc_auc_score(malignant, p_malignant)) if both else None,
        "auprc_benign": auprc_benign(malignant, p_malignant) if both else None,
        "auprc_malignant": float(average_precision_score(malignant, p_malignant)) if both else None,
        "sensitivity_at_90_specificity": _sensitivity(malignant, p_malignant) if both else None,
        "ece": calibration_error(malignant, p_malignant),
        "accuracy": float(accuracy_score(malignant, predicted)),
        "f1": float(f1_score(malignant, predicted, zero_division=0.0)),  # type: ignore[arg-type]
        "n": len(malignant),
        "n_malignant": int(malignant.sum()),
        "prevalence_malignant": float(malignant.mean()),
        "prevalence_benign": float(1 - malignant.mean()),
    }


def _sensitivity(malignant: np.ndarray, p_malignant: np.ndarray) -> float:
    false_rate, sensitivity, _ = roc_curve(malignant, p_malignant, drop_intermediate=False)
    return float(sensitivity[false_rate <= 1 - SPECIFICITY + 1e-6].max())


def calibration_error(malignant: np.ndarray, p_malignant: np.ndarray) -> float:
    """Mean distance between the predicted probability of malignant and the share of malignant ones, over the bins."""
    scores, labels = torch.tensor(p_malignant, dtype=torch.float64), torch.tensor(malignant)
    return float(binary_calibration_error(scores, labels, n_bins=BINS))
