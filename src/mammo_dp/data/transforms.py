"""From 8-bit patches to the inputs of a backbone."""

import cv2
import numpy as np
import torch

FLIPS = 4  # none, horizontal, vertical, both


def to_inputs(images: np.ndarray, *, size: int, mean: float, std: float) -> torch.Tensor:
    """(n, h, w) uint8 -> (n, 3, size, size) float32, (x / 255 - mean) / std.

    Resized with cv2 INTER_AREA on 8 bit and repeated over three channels, as in the paper's published code.
    """
    return scaled(torch.from_numpy(square(images, size)), mean=mean, std=std)


def square(images: np.ndarray, size: int) -> np.ndarray:
    """(n, h, w) uint8 -> (n, size, size) uint8 by cv2 INTER_AREA."""
    if images.shape[1:] == (size, size):
        return images
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images])


def scaled(images: torch.Tensor, *, mean: float, std: float) -> torch.Tensor:
    """(n, s, s) uint8 -> (n, 3, s, s) float32, (x / 255 - mean) / std, on the images' device."""
    grey = images.to(torch.float32).div_(255).sub_(mean).div_(std)
    return grey[:, None].expand(-1, 3, -1, -1).contiguous()


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """(n, h, w) uint8 -> (n, size, size) uint8: smaller by area, as patches are cut; larger by cubic interpolation."""
    if images.shape[1:] == (size, size):
        return images
    way = cv2.INTER_AREA if size < images.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(image, (size, size), interpolation=way) for image in images])


def flip(inputs: torch.Tensor, variant: int) -> torch.Tensor:
    """One of the FLIPS of (n, c, h, w) inputs: bit 0 of `variant` flips left to right, bit 1 top to bottom."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if variant & bit]
    return inputs.flip(axes) if axes else inputs
