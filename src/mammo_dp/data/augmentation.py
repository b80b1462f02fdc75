"""Random flips and crops of whole batches, on the device that holds them."""

import math

import torch
from torch.nn import functional


def random_views(
    images: torch.Tensor, generator: torch.Generator, *, flips: bool, zoom: list[float], aspect: list[float]
) -> torch.Tensor:
    """Each of (n, 1, h, w) images flipped in both directions with probability 0.5 and cropped at random, resized back.

    zoom: range of the crop's area relative to the image, uniform; above 1 it zooms out, and what lies beyond the border
    is mirrored. aspect: range of its width over height, log-uniform. The crop lies anywhere inside the image, or
    anywhere around it along a side on which it is the larger of the two. Each image has its own draws: no image enters
    another.
    """
    if not len(images):  # an empty Poisson batch
        return images
    draws = torch.rand(len(images), 6, generator=generator, device=images.device)
    area = zoom[0] + (zoom[1] - zoom[0]) * draws[:, 0]
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = (low + (high - low) * draws[:, 1]).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1)  # width, height
    # in coordinates from -1 to 1 a crop of side s has its middle anywhere up to |1 - s| from the image's
    middles = (2 * draws[:, 2:4] - 1) * (1 - sides)
    if flips:
        sides = sides * (1 - 2 * (draws[:, 4:6] < 0.5).to(sides.dtype))
    affine = torch.zeros(len(images), 2, 3, device=images.device)
    affine[:, 0, 0], affine[:, 1, 1] = sides[:, 0], sides[:, 1]
    affine[:, :, 2] = middles
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
