"""Weighted metrics against scikit-learn and torchmetrics; coverage of the intervals by simulation."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from mammo_dp.metrics.bootstrap import (
    BINS,
    interval,
    paired_difference,
    patient_draws,
)
from mammo_dp.metrics.classification import binary_metrics, intervals, weighted_metrics


def scored(seed: int, n: int = 120, *, ties: bool = False):
    rng = np.random.default_rng(seed)
    malignant = (rng.random(n) < 0.4).astype(np.int64)
    p = 1 / (1 + np.exp(-(rng.normal(size=n) + 0.8 * malignant)))
    return malignant, np.round(p, 1) + 0.04 if ties else p


@pytest.mark.parametrize("ties", [False, True])
def test_each_resample_is_what_scikit_learn_says_of_the_repeated_rows(ties):
    malignant, p = scored(1, ties=ties)
    draws = patient_draws(np.array([f"P{i // 3}" for i in range(len(p))]), resamples=5, seed=3)
    found = weighted_metrics(malignant, p, draws)
    for number, weights in enumerate(draws):
        rows = np.repeat(np.arange(len(p)), weights.astype(int))
        y, s = malignant[rows], p[rows]
        assert found["auroc"][number] == pytest.approx(roc_auc_score(y, s), abs=1e-5)
        assert found["auprc_benign"][number] == pytest.approx(average_precision_score(1 - y, 1 - s), abs=1e-5)
        assert found["auprc_malignant"][number] == pytest.approx(average_precision_score(y, s), abs=1e-5)
        error = binary_calibration_error(torch.tensor(s), torch.tensor(y), n_bins=BINS)
        assert found["ece"][number] == pytest.approx(float(error), abs=1e-5)


def test_once_everything_gives_the_metrics_themselves():
    malignant, p = scored(2)
    metrics = binary_metrics(malignant, p)
    for name, (value,) in weighted_metrics(malignant, p, np.ones((1, len(p)), np.float32)).items():
        assert value == pytest.approx(metrics[name], abs=1e-5)


def test_sensitivity_at_a_specificity_by_hand():
    """10 benign, of whom one may be a false alarm: the threshold lies below the second highest benign score."""
    malignant = np.array([0] * 10 + [1] * 4)
    p = np.array([0.1, 0.2, 0.3, 0.31, 0.32, 0.33, 0.34, 0.35, 0.6, 0.9, 0.95, 0.7, 0.61, 0.2])
    assert binary_metrics(malignant, p)["sensitivity_at_90_specificity"] == 0.75


def test_patients_are_drawn_whole_and_unknown_ones_alone():
    draws = patient_draws(np.array(["a", "b", "a", "", ""]), resamples=4000)
    assert (draws[:, 0] == draws[:, 2]).all()
    assert not (draws[:, 3] == draws[:, 4]).all()
    assert draws.mean(axis=0) == pytest.approx(1, abs=0.06)
    assert patient_draws(np.array([], dtype=str)).shape == (2000, 0)


def coverage(cluster_size: int, *, by_patient: bool) -> float:
    """Share of 250 simulated test sets whose 95 % interval holds the true AUROC; images of a patient share a shift."""
    truth = 0.5 * (
        1 + math.erf(1 / 2 / math.sqrt(2))
    )  # Phi(1 / 2): scores of variance 2, their difference of 4
    hits = 0
    rng = np.random.default_rng(7)
    patients = np.repeat(np.arange(80), cluster_size)
    for _ in range(250):
        malignant = np.repeat(rng.random(80) < 0.45, cluster_size).astype(np.int64)
        score = malignant + np.repeat(rng.normal(size=80), cluster_size) + rng.normal(size=len(patients))
        p = 1 / (1 + np.exp(-score))
        names = (patients if by_patient else np.arange(len(patients))).astype(str)
        draws = patient_draws(names, resamples=300, seed=1)
        ends = interval(weighted_metrics(malignant, p, draws)["auroc"])
        hits += ends is not None and ends[0] <= truth <= ends[1]
    return hits / 250


def test_coverage_is_nominal():
    """Nominal 95 %, three images a patient."""
    assert 0.92 <= coverage(3, by_patient=True) <= 0.98


def test_images_drawn_one_by_one_cover_too_rarely():
    """Negative control: the resampling that ignores who is whose."""
    assert coverage(3, by_patient=False) < 0.92


def test_paired_difference_is_sharper_than_two_intervals():
    """Two rows that agree on most patients: their difference is told from zero where their own intervals overlap."""
    malignant, p = scored(4, n=400)
    rng = np.random.default_rng(0)
    worse = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + 1.0 * rng.normal(size=len(p)))))
    draws = patient_draws(np.arange(400).astype(str))
    one, other = (weighted_metrics(malignant, s, draws)["auroc"] for s in (p, worse))
    found = paired_difference(one, other, seen=0.03)
    assert found["low"] > 0  # type: ignore[operator]
    assert found["p"] < 0.05  # type: ignore[operator]
    assert interval(other)[1] > interval(one)[0]  # type: ignore[index]
    same = paired_difference(one, one, seen=0.0)
    assert (same["low"], same["high"], same["p"]) == (0.0, 0.0, 1.0)


def test_one_class_alone_has_no_interval():
    found = intervals(np.zeros(5, dtype=np.int64), np.linspace(0.1, 0.5, 5), np.ones((10, 5), np.float32))
    assert found["auroc"] is None
    assert found["auprc_benign"] is None
    assert found["ece"] is not None
