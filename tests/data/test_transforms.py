"""Sizes of images between patches and networks."""

import numpy as np

from mammo_dp.data.transforms import resized


def test_resized_by_area_and_back():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    small = resized(images, 4)
    means = images.reshape(3, 4, 2, 4, 2).mean(axis=(2, 4))
    assert np.abs(small - means).max() <= 0.5
    assert resized(small, 8).shape == (3, 8, 8)
    assert resized(images, 8) is images


def test_resized_upwards_does_not_wrap():
    """Cubic interpolation overshoots at an edge; what goes beyond white stays white."""
    edge = np.zeros((1, 8, 8), np.uint8)
    edge[..., 4:] = 255
    large = resized(edge, 64)
    assert large[0, 0, 40:].min() > 200
    assert large[0, 0, :24].max() < 55
