"""Distances against independent implementations and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from mammo_dp.metrics.frechet import frechet_distance, kernel_distance, precision_recall


def sets(n=40, m=60, d=8, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mixing, rng.normal(size=(m, d)) @ mixing * 1.3 + 0.5


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 8), (5, 7, 30), (40, 6, 20), (9, 50, 9)])
def test_frechet_distance_equals_torch_fidelity_and_scipy(n, m, d):
    a, b = sets(n, m, d)
    first, second = (fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b))
    theirs = fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-4)
    if min(n, m) > d:
        root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
        textbook = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
            np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root
        )
        assert frechet_distance(a, b) == pytest.approx(textbook, rel=1e-8)


def test_frechet_distance_of_known_normals():
    """In one dimension it is (m - n)^2 + (s - t)^2."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (200_000, 1)), rng.normal(3, 2, (200_000, 1))
    assert frechet_distance(a, b) == pytest.approx(9 + 1, rel=0.01)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="two images"):
        frechet_distance(np.zeros((1, 4)), np.zeros((9, 4)))


def test_kernel_distance_is_unbiased():
    """Near 0, on either side, for two draws of one distribution, at any size; far above for others."""
    rng = np.random.default_rng(2)
    same = [kernel_distance(rng.normal(size=(30, 4)), rng.normal(size=(30, 4))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)
    assert kernel_distance(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)) + 2) > 10 * np.std(same)


def test_precision_and_recall():
    """A set that covers half of another is precise and recalls half; far away is neither."""
    rng = np.random.default_rng(3)
    real = np.concatenate([rng.normal(0, 0.1, (200, 2)), rng.normal(5, 0.1, (200, 2))])
    half = rng.normal(0, 0.1, (400, 2))
    precision, recall = precision_recall(real, half)
    assert precision > 0.9
    assert 0.4 < recall < 0.55
    assert precision_recall(real, half + 100) == (0, 0)
