"""Parts without shared patients, self-pairs, classes, and the warning of too few images."""

import numpy as np
import pytest

from mammo_dp.metrics.comparison import ImageSet, compare
from mammo_dp.metrics.frechet import frechet_distance
from mammo_dp.metrics.subsets import patient_parts


def test_parts_share_no_patient_and_hold_all():
    patients = np.array([f"p{k // 3}" for k in range(91)])
    parts = patient_parts(patients, parts=3, seed=0)
    assert sorted(np.concatenate(parts)) == list(range(91))
    whose = [set(patients[part]) for part in parts]
    assert not (whose[0] & whose[1]) | (whose[0] & whose[2]) | (whose[1] & whose[2])
    assert max(map(len, whose)) - min(map(len, whose)) <= 1
    assert [p.tolist() for p in parts] == [p.tolist() for p in patient_parts(patients, parts=3, seed=0)]
    assert [p.tolist() for p in parts] != [p.tolist() for p in patient_parts(patients, parts=3, seed=1)]


def test_unknown_patients_are_each_their_own():
    assert sorted(len(p) for p in patient_parts(np.array([""] * 30), parts=3, seed=0)) == [10, 10, 10]


def sets(shift=0.0):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(240, 5))
    features[120:] += shift
    names = np.array([f"p{k // 2}" for k in range(120)])
    malignant = np.arange(120) % 4 // 2
    return features, {
        "train": ImageSet(np.arange(120), malignant, names),
        "synthetic": ImageSet(np.arange(120, 240), malignant, names),
    }


def test_values_are_those_of_the_parts():
    features, images = sets(shift=1.0)
    found = compare(
        images, [("train", "synthetic"), ("train", "train")], features, space="backbone", parts=3, seed=4
    )
    by = {(c.first, c.second, c.label, c.metric): c for c in found}
    c = by["train", "synthetic", "malignant", "fid"]
    parts = patient_parts(images["train"].patients, parts=3, seed=4)
    expected = []
    for part in parts:
        rows = part[images["train"].malignant[part] == 1]
        expected.append(frechet_distance(features[rows], features[120 + rows]))
    assert c.values == pytest.approx(expected)
    assert c.mean == pytest.approx(np.mean(expected))
    assert c.std == pytest.approx(np.std(expected))
    assert c.n_first == c.n_second == min((images["train"].malignant[part] == 1).sum() for part in parts)
    assert by["train", "train", "all", "fid"].mean < by["train", "synthetic", "all", "fid"].mean
    assert {c.metric for c in found} == {"fid", "kid", "precision", "recall"}


def test_too_few_images_are_told():
    features, images = sets()
    wide = np.repeat(features, 10, axis=1)
    c = compare(images, [("train", "train")], wide, space="backbone", parts=3, seed=0)[0]
    assert "40 images for 50 features" in c.warning
    assert compare(images, [("train", "train")], features, space="backbone", parts=3, seed=0)[0].warning == ""
    none = {"train": ImageSet(np.arange(3), np.array([0, 0, 1]), np.array(["a", "b", "c"]))}
    empty = compare(none, [("train", "train")], features, space="backbone", parts=3, seed=0)
    assert all(c.mean is None for c in empty)
