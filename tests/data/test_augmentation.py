"""Random views: what stays, what moves, and that no image enters another."""

import pytest
import torch
from torchvision.transforms import v2

from mammo_dp.data import augmentation
from mammo_dp.data.augmentation import differentiable, inside_boxes, random_views
from mammo_dp.data.transforms import flip

STILL = {"zoom": [1.0, 1.0], "aspect": [1.0, 1.0]}
PAPER = {"zoom": [0.9, 1.1], "aspect": [0.95, 1.1]}


def views(images, seed=0, **settings):
    return random_views(images, torch.Generator().manual_seed(seed), **{"crop": "mirrored", **settings})


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


# --- the published code's crop: torchvision is the oracle ----------------------------------------------------------


def test_a_crop_inside_is_torchvisions_resized_crop(monkeypatch):
    images = torch.rand(20, 1, 128, 128)
    boxes = inside_boxes(20, 128, torch.Generator().manual_seed(1), zoom=[0.5, 1.1], aspect=[0.75, 1.3])
    monkeypatch.setattr(augmentation, "inside_boxes", lambda *arguments, **settings: boxes)
    found = views(images, flips=False, crop="inside", **PAPER)
    for image, box, ours in zip(images, boxes, found, strict=True):
        theirs = v2.functional.resized_crop(image, *(int(x) for x in box), [128, 128], antialias=True)
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("zoom", "aspect"),
    [
        ([0.9, 1.1], [0.95, 1.1]),
        ([0.5, 0.9], [0.75, 1.33]),
        ([1.5, 2.0], [1.2, 1.3]),
        ([1.5, 2.0], [0.7, 0.8]),
    ],
)
def test_crops_inside_are_drawn_as_torchvision_draws_them(zoom, aspect):
    """Sides and corners of 4,000 crops of each, compared by their means and by how often it is the whole image.

    The last two are always too large: all are the fallback in the middle. Control: another range of areas differs.
    """
    count, image = 4000, torch.zeros(1, 128, 128)
    torch.manual_seed(3)
    crop = v2.RandomResizedCrop(128, scale=tuple(zoom), ratio=tuple(aspect))
    theirs = torch.tensor([list(crop.make_params([image]).values())[:4] for _ in range(count)]).float()
    ours = inside_boxes(count, 128, torch.Generator().manual_seed(4), zoom=zoom, aspect=aspect)
    assert agree(ours, theirs)
    assert bool((ours[:, :2] >= 0).all())
    assert bool((ours[:, :2] + ours[:, 2:] <= 128).all())
    other = inside_boxes(count, 128, torch.Generator().manual_seed(4), zoom=[0.3, 0.5], aspect=aspect)
    assert not agree(other, theirs)


def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether means of (n, 4) boxes and the share of whole images lie within 4 standard errors."""
    a, b = (torch.cat([x, (x[:, 2:] == 128).all(dim=1, keepdim=True).float()], dim=1) for x in (a, b))
    error = (a.var(dim=0) / len(a) + b.var(dim=0) / len(b)).sqrt()
    return bool(((a.mean(dim=0) - b.mean(dim=0)).abs() <= 4 * error + 1e-6).all())


# --- the augmentation of GANs ---------------------------------------------------------------------------------------


def augmented(images, *kinds, seed=0):
    return differentiable(images, torch.Generator().manual_seed(seed), list(kinds))


def test_color_changes_brightness_and_contrast_alone():
    """Zhao et al. 2020: brightness by -0.5 to 0.5, contrast by 0.5 to 1.5, so pixels keep their order."""
    images = 2 * torch.rand(500, 1, 8, 8) - 1
    found = augmented(images, "color")
    shift = (found.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))).abs()
    gain = found.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.45 < float(shift.max()) <= 0.5 + 1e-5
    assert 0.5 - 1e-5 <= float(gain.min()) < 0.55
    assert 1.45 < float(gain.max()) <= 1.5 + 1e-5
    assert torch.equal(found.flatten(1).argsort(dim=1), images.flatten(1).argsort(dim=1))


def test_translation_moves_whole_pixels_by_an_eighth_at_most():
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8, 8] = 1
    found = augmented(image.expand(400, -1, -1, -1), "translation")
    places = {divmod(int(f.argmax()), 16) for f in found}
    assert places == {(8 + dy, 8 + dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    assert torch.allclose(found.amax(dim=(1, 2, 3)), torch.ones(400))


def test_cutout_is_one_square_of_half_the_side_or_what_lies_inside():
    found = augmented(torch.ones(300, 1, 16, 16), "cutout")
    rows, columns = ((found == 0).any(dim=d).sum(dim=(1, 2)) for d in (3, 2))
    assert torch.equal((found == 0).sum(dim=(1, 2, 3)), rows * columns)
    assert (int(rows.max()), int(columns.max())) == (8, 8)
    assert int(rows.min()) >= 4


def test_the_gradient_reaches_the_images():
    images = (2 * torch.rand(4, 1, 16, 16) - 1).requires_grad_()
    augmented(images, "color", "translation", "cutout").square().sum().backward()
    assert images.grad is not None
    assert bool((images.grad != 0).any(dim=(1, 2, 3)).all())


def test_no_kinds_change_nothing_and_images_stay_apart():
    images = 2 * torch.rand(4, 1, 16, 16) - 1
    assert torch.equal(augmented(images), images)
    other = images.clone()
    other[1:] = 0
    kinds = ("color", "translation", "cutout")
    assert torch.equal(augmented(images, *kinds)[0], augmented(other, *kinds)[0])
