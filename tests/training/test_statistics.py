"""What solvers release against sums formed one by one, and what they solve against a library."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mammo_dp.training.statistics import SOLVERS, ClassMeans, Moments, Newton, ridge
from mammo_dp.training.synthesis import fitted_head, low_rank
from tests.conftest import config_of

UNITS, ROWS, FEATURES = 7, 3, 4
RECIPE = config_of("recipe=dp_newton").recipe


def problem(units: int = UNITS, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(units, ROWS, FEATURES, generator=g), dim=-1)
    labels = torch.randint(2, (units, ROWS), generator=g)
    return features, labels, torch.randn(FEATURES + 1, generator=g)


def psi(solver: str, x: torch.Tensor, label: int, value: torch.Tensor) -> torch.Tensor:
    """The vector of one row as the definitions state it, written out."""
    z = torch.cat([x, torch.ones(1)]) / 2**0.5
    if solver == "class_means":
        parts = [torch.zeros(2, FEATURES), torch.zeros(2)]
        parts[0][label], parts[1][label] = x, 0.1
    elif solver == "least_squares":
        parts = [torch.outer(z, z), (2 * label - 1) * z]
    elif solver == "newton":
        p = torch.sigmoid(x @ value[:-1] + value[-1])
        parts = [(p - label) * z, p * (1 - p) * torch.outer(z, z)]
    else:
        parts = [torch.zeros(2, FEATURES, FEATURES), torch.zeros(2, FEATURES), torch.zeros(2)]
        parts[0][label], parts[1][label], parts[2][label] = torch.outer(x, x), x, 0.1
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("solver", SOLVERS)
def test_norms_and_sums_are_those_of_vectors_formed_one_by_one(solver):
    features, labels, value = problem()
    statistic = SOLVERS[solver](RECIPE)
    each = torch.stack(
        [
            torch.stack([psi(solver, x, int(y), value) for x, y in zip(*unit, strict=True)])
            for unit in zip(features, labels, strict=True)
        ]
    )
    inner = statistic.inner(features, labels, value)
    assert torch.allclose(inner, each @ each.mT, atol=1e-5)
    weights = torch.rand(UNITS * ROWS, generator=torch.Generator().manual_seed(1))
    sums = statistic.sums(features.flatten(0, 1), labels.flatten(), weights, value)
    assert [tuple(s.shape) for s in sums] == statistic.shapes(FEATURES)
    found = torch.cat([s.flatten() for s in sums])
    assert torch.allclose(found, weights @ each.flatten(0, 1), atol=1e-5)


def means_of(
    solver: str, features: torch.Tensor, labels: torch.Tensor, value: torch.Tensor
) -> list[torch.Tensor]:
    flat = features.flatten(0, 1)
    weights = torch.full((len(flat),), 1 / len(flat))
    return list(SOLVERS[solver](RECIPE).sums(flat, labels.flatten(), weights, value))


def test_class_means_are_the_nearest_mean():
    features, labels, value = problem(200)
    found = ClassMeans(RECIPE).solve(
        means_of("class_means", features, labels, value), noise=0.0, count=200, value=value
    )
    flat, y = features.flatten(0, 1), labels.flatten()
    centres = [flat[y == c].mean(0) for c in (0, 1)]
    distances = [(flat - c).square().sum(1) for c in centres]
    assert torch.allclose(flat @ found[:-1] + found[-1], distances[0] - distances[1], atol=1e-4)


def test_least_squares_is_ridge_regression():
    features, labels, value = problem(200)
    flat, y = features.flatten(0, 1), 2.0 * labels.flatten() - 1
    z = torch.cat([flat, torch.ones(len(flat), 1)], 1) / 2**0.5
    sums = means_of("least_squares", features, labels, value)
    solved = ridge(sums[0], sums[1], noise=0.0, count=200, least=0.05)
    expected = Ridge(alpha=0.05 * len(flat), fit_intercept=False).fit(z.numpy(), y.numpy()).coef_
    assert np.allclose(solved.numpy(), expected, atol=1e-4)


def test_the_ridge_is_at_least_the_norm_of_the_noise():
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 300, generator=g) * 0.01
    largest = torch.linalg.eigvalsh((noise + noise.T) / 2).max()
    assert float(largest) == pytest.approx(0.01 * (2 * 300) ** 0.5, rel=0.1)
    aim = torch.randn(300, generator=g)
    solved = ridge(noise, aim, noise=0.01, count=100)
    assert solved.norm() <= aim.norm() / (0.01 * 600**0.5) * 1.001


def test_newton_converges_to_logistic_regression():
    features, labels, _ = problem(200)
    decay = RECIPE.weight_decay
    value, newton = torch.zeros(FEATURES + 1), Newton(RECIPE)
    for _ in range(8):
        value = newton.solve(means_of("newton", features, labels, value), noise=0.0, count=200, value=value)
    flat, y = features.flatten(0, 1).numpy(), labels.flatten().numpy()
    z = np.concatenate([flat, np.ones((len(flat), 1))], 1) / 2**0.5
    model = LogisticRegression(C=1 / (decay * len(flat)), fit_intercept=False, tol=1e-8, max_iter=1000).fit(
        z, y
    )
    assert np.allclose(value.numpy() * 2**0.5, model.coef_[0], atol=1e-2)


def test_synthesis_finds_the_classes_of_its_moments():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400, 1), generator=g).expand(400, ROWS)
    shift = torch.tensor([1.0, 0, 0, 0]) * (2.0 * labels[..., None] - 1)
    features = torch.nn.functional.normalize(torch.randn(400, ROWS, FEATURES, generator=g) + shift, dim=-1)
    sums = means_of("synthesis", features, labels, torch.zeros(5))
    value = Moments(RECIPE).solve(sums, noise=0.0, count=400, value=torch.zeros(5))
    assert value[0] > 5 * value[1:4].abs().max()


def test_directions_of_noise_are_not_drawn_from():
    g = torch.Generator().manual_seed(0)
    truth = torch.zeros(40, 40)
    truth[0, 0] = 1.0
    noisy = truth + 0.01 * torch.randn(40, 40, generator=g)
    root = low_rank(noisy, noise=0.01)
    covariance = root @ root.T
    values = torch.linalg.eigvalsh(covariance)
    assert values[-1] == pytest.approx(1, abs=0.15)
    assert values[-2] < 0.01


def test_a_class_that_noise_has_taken_away_still_gives_a_head():
    shares = torch.tensor([-0.1, 1.0])
    assert (
        fitted_head(torch.eye(40).expand(2, 40, 40) / 80, torch.zeros(2, 40), shares, noise=0.01)
        .isfinite()
        .all()
    )
