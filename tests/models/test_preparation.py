"""Directions of a public set against scikit-learn's, and rows that do not depend on their company."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from mammo_dp.errors import UserError
from mammo_dp.models.preparation import RIDGE, Directions, Preparation

N, D, K = 60, 24, 8


@pytest.fixture(scope="module")
def public() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(N, 4, D, generator=g) @ torch.diag(torch.linspace(0.2, 3, D)) + 1


def by_hand(features: torch.Tensor) -> np.ndarray:
    """Layer norm without parameters, unit length, mean over the flips, in numpy."""
    x = features.double().numpy()
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return x.mean(axis=1)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_directions_are_scikit_learns_components_scaled(public, whitening):
    found = Directions.fit(public, components=K, whitening=whitening)
    z = StandardScaler().fit_transform(by_hand(public)) * np.sqrt((N - 1) / N)
    oracle = PCA(K).fit(z)
    cosines = np.abs((oracle.components_ * found.components.numpy().T).sum(axis=1))
    assert cosines == pytest.approx(1, abs=1e-6)
    assert found.scales.numpy() == pytest.approx(
        (oracle.explained_variance_ + RIDGE) ** (-whitening / 2), rel=1e-4
    )
    new = torch.randn(5, 4, D, generator=torch.Generator().manual_seed(1))
    prepared = Preparation(normalize=True, norm=3.0, average=True, directions=found)(new)
    assert prepared.shape == (5, 1, K)
    z = (by_hand(new) - by_hand(public).mean(axis=0)) / by_hand(public).std(axis=0, ddof=1)
    expected = z @ found.components.numpy() * found.scales.numpy()
    expected *= 3 / np.linalg.norm(expected, axis=1, keepdims=True)
    assert prepared[:, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_equal_images_give_equal_bytes_whatever_their_order(public, tmp_path):
    first, again = (Directions.fit(public, components=K, whitening=0.5) for _ in range(2))
    for name, found in (("a", first), ("b", again)):
        save_file(vars(found), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    mixed = Directions.fit(public.flip(0), components=K, whitening=0.5)
    torch.testing.assert_close(mixed.components, first.components, atol=1e-6, rtol=0)  # no sign has turned
    assert (first.components.abs().argmax(dim=0) == mixed.components.abs().argmax(dim=0)).all()
    assert (first.components.gather(0, first.components.abs().argmax(dim=0)[None]) > 0).all()
    loaded = Directions.load(tmp_path / "a")
    assert all(torch.equal(value, getattr(first, name)) for name, value in vars(loaded).items())


def test_the_bits_of_a_row_do_not_depend_on_the_rows_beside_it(public):
    """A product of float32 matrices promises no such thing, and a guarantee for each patient rests on it."""
    found = Directions.fit(public, components=K, whitening=0.5)
    prepare = Preparation(normalize=True, norm=3.33, average=True, directions=found)
    g = torch.Generator().manual_seed(2)
    rows = torch.randn(257, 4, D, generator=g)
    together = prepare(rows)
    for part in (slice(0, 1), slice(3, 20), slice(100, 257)):
        assert torch.equal(prepare(rows[part]), together[part])


def test_a_mean_over_flips_does_not_know_their_order(public):
    prepare = Preparation(normalize=True, average=True)
    torch.testing.assert_close(prepare(public), prepare(public[:, [2, 0, 3, 1]]))
    torch.testing.assert_close(prepare(public).norm(dim=-1), torch.ones(N, 1))
    assert not torch.allclose(prepare(public)[:, 0], Preparation(normalize=True)(public)[:, 0])


def test_more_components_than_the_images_can_carry_are_refused(public):
    with pytest.raises(
        UserError, match=r"there are 20 and 24: set recipe.components=10, or give more images"
    ):
        Directions.fit(public[:20], components=20, whitening=0.5)
    with pytest.raises(UserError, match=r"there are 60 and 24: set recipe.components=24$"):
        Directions.fit(public, components=D + 1, whitening=0.5)


def test_noise_far_below_a_feature_moves_nothing(public):
    found = Directions.fit(public, components=K, whitening=0.5)
    prepare = Preparation(normalize=True, average=True, directions=found)
    noise = 1e-6 * torch.randn(public.shape, generator=torch.Generator().manual_seed(3))
    assert (prepare(public + noise) - prepare(public)).abs().max() < 1e-4
