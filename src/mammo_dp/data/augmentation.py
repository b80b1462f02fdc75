"""Random flips, crops and the differentiable augmentation of GANs: whole batches, on the device that holds them."""

import math

import torch

CROP_ATTEMPTS = 10  # torchvision's: the first crop that lies inside the image is taken
BRIGHTNESS, CONTRAST = 0.5, 0.5  # Zhao et al. 2020, whose images lie in [-1, 1]
TRANSLATION, CUTOUT = 1 / 8, 1 / 2  # of the side


def random_views(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    flips: bool,
    zoom: list[float],
    aspect: list[float],
    crop: str,
) -> torch.Tensor:
    """Each of (n, 1, s, s) images flipped in both directions with probability 0.5 and cropped at random, resized back.

    zoom: range of the crop's area relative to the image, uniform. aspect: range of its width over height, log-uniform.
    crop: `inside` is torchvision's RandomResizedCrop: a crop that leaves the image is drawn again, and the image stays
    whole after ten of them. `mirrored` zooms out instead, with what lies beyond the border mirrored. Each image has its
    own draws: no image enters another.
    """
    count, size = len(images), images.shape[-1]
    if not count:  # an empty Poisson batch
        return images
    boxes = (inside_boxes if crop == "inside" else mirrored_boxes)(
        count, size, generator, zoom=zoom, aspect=aspect
    )
    rows, columns = (_positions(boxes[:, k], boxes[:, k + 2], size) for k in (0, 1))
    if (
        crop == "inside"
    ):  # as torchvision, which cuts before it resizes: nothing outside the crop is looked at
        rows, columns = (
            torch.minimum(torch.maximum(p, boxes[:, k, None]), (boxes[:, k] + boxes[:, k + 2] - 1)[:, None])
            for k, p in enumerate((rows, columns))
        )
    else:
        rows, columns = (_mirrored(p, size) for p in (rows, columns))
    if flips:
        turned = torch.rand(2, count, 1, generator=generator, device=images.device) < 0.5
        rows, columns = (torch.where(turned[k], p.flip(1), p) for k, p in enumerate((rows, columns)))
    return sampled_at(images, rows, columns)


def inside_boxes(
    count: int, size: int, generator: torch.Generator, *, zoom: list[float], aspect: list[float]
) -> torch.Tensor:
    """(count, 4) top, left, height and width of torchvision's random crops of a square image, whole px."""
    device = generator.device
    draws = torch.rand(2, count, CROP_ATTEMPTS, generator=generator, device=device)
    area = (zoom[0] + (zoom[1] - zoom[0]) * draws[0]) * size**2
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = (low + (high - low) * draws[1]).exp()
    sides = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()])
    fits = ((sides > 0) & (sides <= size)).all(dim=0)
    first = fits.int().argmax(dim=1)  # the first attempt that fits
    sides = sides.gather(2, first.expand(2, -1)[..., None])[..., 0]
    # none fits: the largest crop in the middle whose ratio is allowed
    none = ~fits.any(dim=1)
    for k, largest in enumerate((min(1.0, 1 / aspect[0]), min(1.0, aspect[1]))):
        sides[k].masked_fill_(none, round(size * largest))
    places = torch.rand(2, count, generator=generator, device=device)
    corners = torch.where(none, ((size - sides) / 2).floor(), (places * (size - sides + 1)).floor())
    return torch.cat([corners, sides]).T


def mirrored_boxes(
    count: int, size: int, generator: torch.Generator, *, zoom: list[float], aspect: list[float]
) -> torch.Tensor:
    """(count, 4) top, left, height and width of crops, in px, which need not lie inside the image.

    A crop lies anywhere inside the image, or anywhere around it along a side on which it is the larger of the two.
    """
    draws = torch.rand(4, count, generator=generator, device=generator.device)
    area = zoom[0] + (zoom[1] - zoom[0]) * draws[0]
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = (low + (high - low) * draws[1]).exp()
    sides = size * torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()])
    return torch.cat([draws[2:] * (size - sides), sides]).T


def sampled_at(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) images read by bilinear interpolation at (n, a) rows and (n, b) columns, in px: (n, c, a, b).

    Positions beyond the border are 0. Two matrix products, so the gradient is the same on every run.
    """
    vertical, horizontal = (
        (1 - (p[..., None] - torch.arange(side, device=images.device)).abs())
        .clamp(min=0)
        .to(images.dtype)[:, None]
        for p, side in ((rows, images.shape[-2]), (columns, images.shape[-1]))
    )
    return vertical @ images @ horizontal.transpose(-1, -2)


def differentiable(images: torch.Tensor, generator: torch.Generator, kinds: list[str]) -> torch.Tensor:
    """The differentiable augmentation of Zhao et al. 2020 on (n, 1, s, s) images in [-1, 1], by image.

    color: brightness and contrast. translation: by up to 1/8 of the side, 0 beyond the border. cutout: a square of half
    the side, anywhere, is 0. (Saturation has no meaning on grey images.)
    """
    count, size, device = len(images), images.shape[-1], images.device

    def draws() -> torch.Tensor:
        return torch.rand(count, 1, generator=generator, device=device)

    if "color" in kinds:
        images = images + (2 * draws() - 1)[..., None, None] * BRIGHTNESS
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = (images - mean) * (1 + (2 * draws() - 1)[..., None, None] * CONTRAST) + mean
    places = torch.arange(size, device=device, dtype=torch.float32)[None]
    if "translation" in kinds:
        most = round(size * TRANSLATION)
        shifted = [places + (draws() * (2 * most + 1)).floor() - most for _ in range(2)]
        images = sampled_at(images, *shifted)
    if "cutout" in kinds:
        side = round(size * CUTOUT)
        starts = [(draws() * (size + 1 - side % 2)).floor() - side // 2 for _ in range(2)]
        rows, columns = ((places >= start) & (places < start + side) for start in starts)
        images = images * ~(rows[:, None, :, None] & columns[:, None, None, :])
    return images


def _positions(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """(n, size) places of a crop's pixel centres when it is resized to `size`, in px of the image."""
    centres = torch.arange(size, device=start.device) + 0.5
    return start[:, None] + centres * (length / size)[:, None] - 0.5


def _mirrored(positions: torch.Tensor, size: int) -> torch.Tensor:
    inside = (positions + 0.5).abs() - 0.5
    inside = size - 1 - ((size - 1 - inside + 0.5).abs() - 0.5)
    return inside.clamp(0, size - 1)
