"""Random views: what stays, what moves, and that no image enters another."""

import torch

from mammo_dp.data.augmentation import random_views
from mammo_dp.data.transforms import flip

STILL = {"zoom": [1.0, 1.0], "aspect": [1.0, 1.0]}
PAPER = {"zoom": [0.9, 1.1], "aspect": [0.95, 1.1]}


def views(images, seed=0, **settings):
    return random_views(images, torch.Generator().manual_seed(seed), **settings)


def test_nothing_at_random_is_nothing():
    images = torch.rand(5, 1, 32, 32)
    assert torch.allclose(views(images, flips=False, **STILL), images, atol=1e-5)


def test_the_four_flips_come_up_equally_often():
    image = torch.rand(1, 1, 16, 16)
    found = views(image.expand(2000, -1, -1, -1), flips=True, **STILL)
    counts = [
        int(((found - flip(image, variant)).abs().amax(dim=(1, 2, 3)) < 1e-4).sum()) for variant in range(4)
    ]
    assert sum(counts) == 2000
    assert all(430 < count < 570 for count in counts)  # 500 +- 3.6 standard deviations


def test_the_crop_has_the_size_that_is_asked_for():
    """A disc in the middle: a crop of area 0.81 makes its area 1/0.81 of what it was; one of 1.21 zooms out."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    disc = ((((x - 63.5) ** 2 + (y - 63.5) ** 2).sqrt() < 20).float())[None, None]
    for area in (0.81, 1.21):
        found = views(disc.expand(50, -1, -1, -1), flips=False, zoom=[area, area], aspect=[1.0, 1.0])
        ratio = found.sum(dim=(1, 2, 3)) / disc.sum()
        assert torch.allclose(ratio, torch.full_like(ratio, 1 / area), rtol=0.03)


def test_there_is_no_constant_border_when_it_zooms_out():
    images = torch.full((200, 1, 32, 32), 0.7)
    assert torch.allclose(views(images, flips=True, **PAPER), images, atol=1e-5)


def test_no_image_enters_another():
    images = torch.rand(6, 1, 32, 32)
    other = images.clone()
    other[1:] = 0
    first, second = (views(x, flips=True, **PAPER)[0] for x in (images, other))
    assert torch.equal(first, second)


def test_seeded():
    images = torch.rand(4, 1, 32, 32)
    assert torch.equal(views(images, 3, flips=True, **PAPER), views(images, 3, flips=True, **PAPER))
    assert not torch.equal(views(images, 3, flips=True, **PAPER), views(images, 4, flips=True, **PAPER))
