import numpy as np
import pytest
import torch
from torch.nn import functional

from mammo_dp.metrics.classification import binary_metrics, cross_entropy
from mammo_dp.models.head import p_malignant


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


def test_the_loss_is_torchs_over_batches():
    """Label smoothing as torch defines it; the mean over batches of 128 is not the mean over 300 images."""
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(300, 2, dtype=torch.float64), torch.randint(2, (300,))
    p = p_malignant(logits).numpy()
    for smoothing in (0.0, 0.1):
        parts = [
            float(functional.cross_entropy(x, y, label_smoothing=smoothing))
            for x, y in zip(logits.split(128), labels.split(128), strict=True)
        ]
        whole = float(functional.cross_entropy(logits, labels, label_smoothing=smoothing))
        found = cross_entropy(labels.numpy(), p, label_smoothing=smoothing, batch_size=128)
        assert found == pytest.approx(np.mean(parts), rel=1e-9)
        assert cross_entropy(labels.numpy(), p, label_smoothing=smoothing) == pytest.approx(whole, rel=1e-9)
        assert abs(found - whole) > 1e-4
    sure = np.array([1.0, 0.0])
    assert np.isfinite(cross_entropy(np.array([0, 1]), sure, label_smoothing=0.1))


def test_images_of_large_logits_are_still_ranked():
    """Differences of 20 and 30 are both the probability 1 in float32, and tie there."""
    logits = torch.tensor([[0.0, 30.0], [0.0, 20.0], [-15.0, 15.0], [0.0, 25.0]])
    labels = np.array([1, 0, 1, 0])
    assert logits.softmax(dim=1)[:, 1].unique().numel() == 1
    assert binary_metrics(labels, p_malignant(logits).numpy())["auroc"] == 1.0
