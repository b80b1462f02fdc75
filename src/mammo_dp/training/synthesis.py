"""Private features instead of private images: synthetic feature vectors of both classes, and a head trained on them.

From noisy class-wise counts, means and second moments (`statistics.Moments`) a normal distribution with a low-rank
covariance is fitted to each class. What is drawn from it, and all training on what was drawn, is post-processing.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

LEAST_SHARE = 0.05  # of the units that a class is taken to have at least, whatever the noise says
DRAWN = 2000  # feature vectors of each class; public, as is the seed they are drawn from
SEED = 0


def fitted_head(
    second: torch.Tensor, first: torch.Tensor, shares: torch.Tensor, *, noise: float
) -> torch.Tensor:
    """(d + 1,) logistic regression on drawn features, as the difference of the classes' weights.

    second: (2, d, d), first: (2, d), shares: (2,), noisy means over all units; noise: of each of their entries.
    """
    rng = np.random.default_rng(SEED)
    drawn = []
    for c in (0, 1):
        share = max(float(shares[c]), LEAST_SHARE)
        mean = first[c] / share
        covariance = low_rank(second[c] / share - torch.outer(mean, mean), noise=noise / share)
        normal = torch.from_numpy(rng.standard_normal((DRAWN, len(mean)), dtype=np.float32))
        drawn.append(functional.normalize(mean + normal @ covariance.T, dim=1))
    features = torch.cat(drawn).numpy()
    model = LogisticRegression(max_iter=1000).fit(features, np.repeat([0, 1], DRAWN))
    return torch.from_numpy(np.append(model.coef_[0], model.intercept_[0]).astype(np.float32))


def low_rank(covariance: torch.Tensor, *, noise: float) -> torch.Tensor:
    """(d, d) square root of a noisy covariance, without the directions that noise alone explains.

    The symmetrised noise has spectral norm sqrt(2 d) times its standard deviation. Eigenvalues above it lose it; those
    below are replaced by their mean, which noise does not move, and at least zero: an isotropic rest.
    """
    symmetric = (covariance + covariance.T).double() / 2
    values, vectors = torch.linalg.eigh(symmetric)
    floor = noise * (2 * len(values)) ** 0.5
    large = values > floor
    rest = values[~large].mean().clamp(min=0) if (~large).any() else values.new_zeros(())
    kept = torch.where(large, (values - floor).clamp(min=0) + rest, rest)
    return (vectors * kept.sqrt()).to(covariance.dtype)
