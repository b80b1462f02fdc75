"""What a head can be solved from instead of descended to: sums over rows, each a clipped vector a unit.

Every solver releases sums of one vector psi per row (a unit's is the mean over its rows, clipped as one) and computes
the head from the noisy sums alone, which is post-processing. Only inner products of psi are needed for norms, so that
a matrix a unit is never formed. x is a feature vector, y in {-1, +1}.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from mammo_dp.sections import Recipe
from mammo_dp.training.synthesis import LEAST_SHARE, fitted_head

Sums = Sequence[torch.Tensor]


class Statistic(ABC):
    """One kind of psi.

    features: (units, k, d) or (rows, d); labels of 0 and 1 likewise; value: (d + 1,) head so far.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @abstractmethod
    def shapes(self, features: int) -> list[tuple[int, ...]]:
        """Shapes of the sums."""

    @abstractmethod
    def inner(self, features: torch.Tensor, labels: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(units, k, k) inner products of the rows' psi within each unit."""

    @abstractmethod
    def sums(
        self, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, value: torch.Tensor
    ) -> Sums:
        """Sums of psi over (rows, d) features, each row times its weight."""

    @abstractmethod
    def solve(self, sums: Sums, *, noise: float, count: int, value: torch.Tensor) -> torch.Tensor:
        """(d + 1,) head: difference of the classes' weights, and of their biases.

        sums: noisy means over `count`, the published number of units; noise: standard deviation of their entries.
        """


GRID = 61  # ridges that cross-validation compares
COUNT = 0.1  # length of the entry that counts a class against that of a feature vector: counts need little precision


class ClassMeans(Statistic):
    """Class-wise noisy means and the nearest of them (Snell et al. 2017, prototypes by squared distance).

    psi = [y = c] (x, COUNT) for both classes c.
    """

    def shapes(self, features: int) -> list[tuple[int, ...]]:
        return [(2, features), (2,)]

    def inner(self, features: torch.Tensor, labels: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return _same(labels) * (features @ features.mT + COUNT**2)

    def sums(
        self, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, value: torch.Tensor
    ) -> Sums:
        each = _by_class(weights, labels)
        return [each @ features, COUNT * each.sum(dim=1)]

    def solve(self, sums: Sums, *, noise: float, count: int, value: torch.Tensor) -> torch.Tensor:
        shares = (sums[1] / COUNT).clamp(min=LEAST_SHARE)
        means = sums[0] / shares[:, None]
        weight = 2 * (means[1] - means[0])
        # each squared length is too large by that of its noise
        squared = means.square().sum(dim=1) - means.shape[1] * (noise / shares) ** 2
        return torch.cat([weight, (squared[0] - squared[1])[None]])


class LeastSquares(Statistic):
    """Ridge regression on labels of -1 and 1 from noisy second moments (Mehta et al. 2023; Wang 2018, AdaSSP).

    psi = (z z^T, BALANCE y z) with z = (x, 1) / sqrt(2). The ridge is the spectral norm of the noise in the moments,
    sqrt(2 d) times its standard deviation, below which eigenvalues are noise.
    """

    def shapes(self, features: int) -> list[tuple[int, ...]]:
        return [(features + 1, features + 1), (features + 1,)]

    def inner(self, features: torch.Tensor, labels: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        products = _products(features)
        signs = 2.0 * labels - 1
        return products.square() + BALANCE**2 * signs[..., :, None] * signs[..., None, :] * products

    def sums(
        self, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, value: torch.Tensor
    ) -> Sums:
        z = _with_bias(features)
        return [z.T @ (weights[:, None] * z), BALANCE * (weights * (2.0 * labels - 1)) @ z]

    def solve(self, sums: Sums, *, noise: float, count: int, value: torch.Tensor) -> torch.Tensor:
        solved = ridge(sums[0], sums[1] / BALANCE, noise=noise, count=count)
        return 2 * solved / 2**0.5  # E[y | x] = tanh(logit / 2), about half the logit


BALANCE = 1.0  # length of the part of psi that knows the label against that of the second moments


class Newton(Statistic):
    """Newton's method for logistic regression, gradient and Hessian released together (Mehta et al. 2023).

    psi = (r z, CURVATURE h z z^T) with z = (x, 1) / sqrt(2), r = p - y', h = p (1 - p), y' in {0, 1}.
    """

    def shapes(self, features: int) -> list[tuple[int, ...]]:
        return [(features + 1,), (features + 1, features + 1)]

    def inner(self, features: torch.Tensor, labels: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        products = _products(features)
        residual, curvature = self._derivatives(features, labels, value)
        first = residual[..., :, None] * residual[..., None, :] * products
        return first + CURVATURE**2 * curvature[..., :, None] * curvature[..., None, :] * products.square()

    def sums(
        self, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, value: torch.Tensor
    ) -> Sums:
        z = _with_bias(features)
        residual, curvature = self._derivatives(features, labels, value)
        hessian = z.T @ ((weights * curvature)[:, None] * z)
        return [(weights * residual) @ z, CURVATURE * hessian]

    def solve(self, sums: Sums, *, noise: float, count: int, value: torch.Tensor) -> torch.Tensor:
        current = value * 2**0.5  # z is x and 1 over sqrt(2)
        decay = self.recipe.weight_decay
        gradient = sums[0] + decay * current
        step = ridge(sums[1] / CURVATURE, gradient, noise=noise / CURVATURE, count=count, least=decay)
        return (current - step) / 2**0.5

    @staticmethod
    def _derivatives(
        features: torch.Tensor, labels: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        p = (features @ value[:-1] + value[-1]).sigmoid()
        return p - labels, p * (1 - p)


CURVATURE = 1.0  # length of the Hessian's part of psi against the gradient's


class Moments(Statistic):
    """Class-wise counts, means and second moments, to draw synthetic features from.

    psi = [y = c] (x x^T, x, COUNT) for both classes c.
    """

    def shapes(self, features: int) -> list[tuple[int, ...]]:
        return [(2, features, features), (2, features), (2,)]

    def inner(self, features: torch.Tensor, labels: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        products = features @ features.mT
        return _same(labels) * (products.square() + products + COUNT**2)

    def sums(
        self, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, value: torch.Tensor
    ) -> Sums:
        each = _by_class(weights, labels)
        second = torch.stack([features.T @ (w[:, None] * features) for w in each])
        return [second, each @ features, COUNT * each.sum(dim=1)]

    def solve(self, sums: Sums, *, noise: float, count: int, value: torch.Tensor) -> torch.Tensor:
        """Fit a head to features drawn from the two normal distributions."""
        return fitted_head(sums[0], sums[1], sums[2] / COUNT, noise=noise)


SOLVERS: dict[str, type[Statistic]] = {
    "class_means": ClassMeans,
    "least_squares": LeastSquares,
    "newton": Newton,
    "synthesis": Moments,
}


def _with_bias(features: torch.Tensor) -> torch.Tensor:
    """z: (rows, d) -> (rows, d + 1), of length one where x is."""
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1) / 2**0.5


def _products(features: torch.Tensor) -> torch.Tensor:
    """(units, k, k) inner products of the rows' z."""
    return (features @ features.mT + 1) / 2


def ridge(
    matrix: torch.Tensor, aim: torch.Tensor, *, noise: float, count: int, least: float | None = None
) -> torch.Tensor:
    """Solve (matrix + r) x = aim, the matrix made symmetric and its negative eigenvalues, which are noise, zero.

    r is at least the spectral norm of the symmetrised noise, sqrt(2 d) times its standard deviation, and `least`;
    where none is given, of all larger ones that with the least generalised cross-validation error for aims y z with
    y^2 = 1 (Golub, Heath, Wahba 1979), which follows from the same sums.
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.T).double() / 2)
    values, turned = values.clamp(min=0), vectors.T @ aim.double()
    floor = max(noise * (2 * len(values)) ** 0.5, least or 1e-9 * float(values.sum()))
    if least is None:
        # not beyond: weights so small give probabilities that float32 cannot tell apart
        highest = max(100 * floor, float(values.sum()) / 10)
        grid = np.geomspace(floor, highest, GRID)
        floor = float(min(grid, key=lambda r: _gcv(values, turned, float(r), count)))
    return (vectors @ (turned / (values + floor))).to(aim.dtype)


def _gcv(values: torch.Tensor, turned: torch.Tensor, strength: float, count: int) -> float:
    """Generalised cross-validation error of ridge regression, from eigenvalues of mean z z^T and turned mean y z."""
    shrunk = values + strength
    residual = 1 - float((turned.square() * (2 / shrunk - values / shrunk.square())).sum())
    freedom = float((values / shrunk).sum())
    return max(residual, 1e-6) / max(1 - freedom / count, 1e-3) ** 2


def _by_class(weights: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(2, rows) weights of the rows of each class, zero elsewhere."""
    return torch.stack([weights * (labels == c) for c in (0, 1)])


def _same(labels: torch.Tensor) -> torch.Tensor:
    return (labels[..., :, None] == labels[..., None, :]).float()
