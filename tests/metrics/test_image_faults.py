"""Wrapped pixels: counted where they were put, and in the published images."""

import cv2
import numpy as np

from mammo_dp.metrics.image_faults import wrapped_pixels
from tests.conftest import shared


def test_counts_what_wrapped_and_nothing_else():
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (3, 64, 64)).astype(np.float32)[0], (0, 0), 3)
    bright = 300 * (smooth - smooth.min()) / (smooth.max() - smooth.min())  # peaks beyond 255
    clipped, wrapped = bright.clip(0, 255).astype(np.uint8), bright.astype(np.int64).astype(np.uint8)
    assert wrapped_pixels(np.stack([clipped, wrapped]))[0] == 0
    assert wrapped_pixels(np.stack([clipped, wrapped]))[1] > 0
    speck = np.full((64, 64), 100, np.uint8)
    speck[10, 10] = speck[30, 31] = 255
    assert wrapped_pixels(speck[None]).tolist() == [2]


def test_edges_of_a_mass_are_no_artefacts():
    edge = np.zeros((64, 64), np.uint8)
    edge[:, 32:] = 255
    assert wrapped_pixels(edge[None]).tolist() == [0]


def test_the_published_images():
    """205 of 3,000 synthetic ones, counted before by other means; none of the 1,698 real ones."""
    release = shared() / "data/release"

    def count(folder: str) -> tuple[int, int]:
        images = np.stack(
            [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in sorted((release / folder).rglob("*.png"))]
        )
        return int((wrapped_pixels(images) > 0).sum()), len(images)

    assert count("synthetic/c-dcgan") == (205, 3000)
    assert count("cbis-ddsm") == (0, 1698)
