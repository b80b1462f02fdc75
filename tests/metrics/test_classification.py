import numpy as np
import pytest

from mammo_dp.metrics.classification import binary_metrics


def test_by_hand():
    """Scores .9 .8 .3 .1 for malignant, benign, malignant, benign: 3 of 4 pairs in order."""
    found = binary_metrics(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.3, 0.1]))
    assert found["auroc"] == pytest.approx(0.75)
    assert found["auprc_malignant"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["auprc_benign"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["accuracy"] == pytest.approx(0.5)
    assert (found["n"], found["n_malignant"]) == (4, 2)


def test_benign_is_the_positive_class_of_the_paper():
    labels = np.array([0] * 61 + [1] * 39)
    found = binary_metrics(labels, np.full(100, 0.4))
    assert found["auprc_benign"] == pytest.approx(0.61)  # chance is the prevalence of benign
    assert found["auroc"] == pytest.approx(0.5)


def test_one_class_has_no_ranking():
    found = binary_metrics(np.ones(3, int), np.array([0.2, 0.6, 0.7]))
    assert found["auroc"] is None
    assert found["accuracy"] == pytest.approx(2 / 3)
