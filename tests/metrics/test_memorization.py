"""A copied training image is found, an honest generator is not accused, and patients are drawn, not images."""

import numpy as np
import pytest
import torch

from mammo_dp.data.transforms import FLIPS, flip
from mammo_dp.metrics.memorization import copies, membership_auc, nearest


def all_flips(images: torch.Tensor) -> torch.Tensor:
    return torch.stack([flip(images[:, None], v).flatten(1) for v in range(FLIPS)], dim=1)


def test_a_flipped_copy_is_found():
    rng = torch.Generator().manual_seed(0)
    real = torch.rand(9, 12, 12, generator=rng)
    made = torch.rand(5, 12, 12, generator=rng)
    made[3] = flip(real[6][None, None], 2)[0, 0] * 0.5 + 0.2  # another brightness is still a copy
    of_real, of_made = nearest(all_flips(real), made.flatten(1))
    assert of_real.correlation[6] == pytest.approx(1, abs=1e-5)
    assert (of_real.partner[6], of_real.flip[6]) == (3, 2)
    assert of_made.correlation[3] == pytest.approx(1, abs=1e-5)
    assert (of_made.partner[3], of_made.flip[3]) == (6, 2)
    assert np.delete(of_made.correlation, 3).max() < 0.6


def test_nearest_equals_a_loop():
    rng = np.random.default_rng(1)
    real, made = rng.normal(size=(150, 4, 20)), rng.normal(size=(70, 20))
    of_real, of_made = nearest(torch.from_numpy(real), torch.from_numpy(made))
    table = np.array([[[np.corrcoef(v, m)[0, 1] for m in made] for v in image] for image in real])
    assert np.allclose(of_real.correlation, table.max(axis=(1, 2)), atol=1e-5)
    assert np.allclose(of_made.correlation, table.max(axis=(0, 1)), atol=1e-5)
    assert (of_made.partner == table.max(axis=1).argmax(axis=0)).all()


def auc_of(members, others, **kwargs):
    settings = {
        "member_patients": np.arange(len(members)),
        "other_patients": np.arange(len(others)),
        "draws": 200,
        "seed": 0,
    }
    return membership_auc(np.asarray(members, float), np.asarray(others, float), **(settings | kwargs))


def test_memory_shows_and_its_absence_does_not():
    rng = np.random.default_rng(0)
    honest = auc_of(rng.normal(size=300), rng.normal(size=200))
    assert honest["low"] < 0.5 < honest["high"]
    copied = auc_of(rng.normal(size=300) + 1.5, rng.normal(size=200))
    assert copied["low"] > 0.75
    assert auc_of([2, 3], [0, 1], draws=0) == {
        "auc": 1.0,
        "low": None,
        "high": None,
        "members": 2,
        "held_out": 2,
    }


def test_unknown_patients_are_each_their_own():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60), rng.normal(size=40)
    unknown = auc_of(a, b, member_patients=np.array([""] * 60), other_patients=np.array([""] * 40))
    assert unknown["high"] - unknown["low"] > 0.05


def test_the_interval_is_of_patients():
    """Ten images of each patient that score alike are worth about one: the interval is as wide as for one each."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60), rng.normal(size=40)
    one = auc_of(a, b)
    patients = {
        "member_patients": np.repeat(np.arange(60), 10),
        "other_patients": np.repeat(np.arange(40), 10),
    }
    ten = auc_of(np.repeat(a, 10), np.repeat(b, 10), **patients)
    naive = auc_of(np.repeat(a, 10), np.repeat(b, 10))

    def width(found):
        return found["high"] - found["low"]

    assert width(ten) == pytest.approx(width(one), rel=0.25)
    assert width(naive) < 0.5 * width(ten)


def test_copies_are_counted_against_how_near_held_out_images_come():
    rng = np.random.default_rng(0)
    held_out = rng.uniform(0, 1, 500)
    patients = np.repeat([f"P{n}" for n in range(250)], 2)
    given = {"held_out_patients": patients, "draws": 200, "seed": 0}
    fresh = copies(rng.uniform(0, 1, 4000), held_out, **given)
    copied = copies(np.full(100, 0.999), held_out, **given)
    blank = copies(np.zeros(100), held_out, **given)
    for level, expected in ((95, 0.05), (99, 0.01)):
        key = f"nearer_than_{level}_percent"
        assert fresh[key]["low"] <= expected <= fresh[key]["high"]
        assert fresh[key]["share"] == pytest.approx(expected, abs=0.03)
        assert copied[key]["share"] > 0.9  # negative controls
        assert blank[key]["share"] == 0
