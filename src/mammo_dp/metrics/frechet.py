"""Distances between two sets of feature vectors: Frechet distance, KID, precision and recall."""

from functools import partial

import numpy as np
import torch

NEIGHBOURS = 3  # of precision and recall (Kynkaanniemi et al. 2019)
KID_DRAWS, KID_SIZE = (
    20,
    1000,
)  # of Binkowski et al. 2018, with fewer draws: the parts already tell the spread


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of (n, d) and (m, d) features with covariances A and B.

    Heusel et al. 2017. With centred features X and Y, tr (A B)^(1/2) is the sum of the singular values of
    X Y^T / sqrt((n - 1)(m - 1)): the same number without the square root of a d x d matrix that has no full rank when
    there are fewer images than features. Raises ValueError for fewer than two images.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("a covariance needs two images")
    means = [np.mean(x, axis=0, dtype=np.float64) for x in (a, b)]
    x, y = (_factor(s - mean) for s, mean in zip((a, b), means, strict=True))
    common = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(np.square(means[0] - means[1]).sum() + np.square(x).sum() + np.square(y).sum() - 2 * common)


def _factor(centred: np.ndarray) -> np.ndarray:
    """X with X^T X = the covariance, of at most d rows."""
    scaled = centred / np.sqrt(len(centred) - 1)
    return np.asarray(np.linalg.qr(scaled, mode="r")) if len(scaled) > scaled.shape[1] else scaled


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID: the unbiased squared MMD of a cubic kernel, mean over KID_DRAWS draws of the same size from each set."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(KID_SIZE, len(a), len(b))
    draws = 1 if size == len(a) == len(b) else KID_DRAWS
    measure = partial(
        kid_features_to_metric, kid_subset_size=size, kid_subsets=draws, rng_seed=0, verbose=False
    )
    return float(measure(_tensor(a), _tensor(b))[KEY_METRIC_KID_MEAN])


def precision_recall(real: np.ndarray, generated: np.ndarray) -> tuple[float, float]:
    """(precision, recall): how much of the generated set lies among the real one, and the other way round."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    found = prc_features_to_metric(
        _tensor(generated), _tensor(real), prc_neighborhood=NEIGHBOURS, save_cpu_ram=False, verbose=False
    )
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


def _tensor(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
