"""MCGAN, the malignancy-conditioned GAN: a DCGAN whose two networks are given the class (paper, Sec. 2; its code).

The two halves are functions of one image each unless `gan.norm=batch`, so that gradients of single images exist.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from mammo_dp.config.schema import Gan

CLASSES = 2  # benign 0, malignant 1
Generate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # latents, classes -> images
# Positions below which a convolution with many channels is faster as one matrix product on a CPU: 0.24 against 0.41 s
# for forward and backward of the paper's last block, and slower above. The numbers are the same up to rounding.
FEW_POSITIONS = 16


class Convolution(nn.Conv2d):
    """nn.Conv2d that takes the faster of two ways on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        side = (input.shape[-1] + 2 * self.padding[0] - self.kernel_size[0]) // self.stride[0] + 1  # type: ignore[operator]
        if input.device.type != "cpu" or side**2 > FEW_POSITIONS:
            return super().forward(input)
        columns = functional.unfold(input, self.kernel_size, padding=self.padding, stride=self.stride)  # type: ignore[arg-type]
        rows = columns.transpose(1, 2).flatten(0, 1) @ self.weight.flatten(1).T
        return rows.view(len(input), side, side, -1).permute(0, 3, 1, 2)


class TransposedConvolution(nn.ConvTranspose2d):
    """nn.ConvTranspose2d that takes the faster of two ways on a CPU."""

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        count, _, side, _ = input.shape
        if input.device.type != "cpu" or side**2 > FEW_POSITIONS:
            return super().forward(input, output_size)
        size = (side - 1) * self.stride[0] - 2 * self.padding[0] + self.kernel_size[0]  # type: ignore[operator]
        rows = input.permute(0, 2, 3, 1).flatten(0, 2) @ self.weight.flatten(1)
        columns = rows.view(count, side * side, -1).transpose(1, 2)
        return functional.fold(
            columns,
            (size, size),
            self.kernel_size,
            padding=self.padding,  # type: ignore[arg-type]
            stride=self.stride,  # type: ignore[arg-type]
        )


class Label(nn.Module):
    """The class as `size` learnt numbers: an embedding through a linear layer and LeakyReLU(0.1)."""

    def __init__(self, settings: Gan, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, settings.label_dim)
        self.linear = nn.Linear(settings.label_dim, size)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """(n,) of 0 and 1 -> (n, size)."""
        return functional.leaky_relu(self.linear(self.embedding(labels)), 0.1)


class OneHot(nn.Module):
    """The class as one-hot numbers."""

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """(n,) of 0 and 1 -> (n, CLASSES)."""
        return functional.one_hot(labels, CLASSES).float()


class Generator(nn.Module):
    """Latents and classes to images: transposed convolutions from 1x1 to size x size, doubling after the first."""

    def __init__(self, settings: Gan) -> None:
        super().__init__()
        self.latent_dim = settings.latent_dim
        auxiliary = settings.label_injection == "auxiliary"
        given = CLASSES if auxiliary else settings.label_channels
        self.label = OneHot() if auxiliary else Label(settings, given)
        kernel, previous, blocks = settings.generator_kernel, settings.latent_dim + given, nn.Sequential()
        for number, channels in enumerate(settings.generator_channels):
            stride, padding = (1, 0) if number == 0 else (2, (kernel - 2) // 2)
            side = 4 if number == 0 else kernel  # the first block makes 4x4 of 1x1
            block = [
                TransposedConvolution(previous, channels, side, stride, padding, bias=False),
                _norm(settings, channels),
                nn.ReLU(),
            ]
            blocks.append(nn.Sequential(*block))
            previous = channels
        blocks.append(TransposedConvolution(previous, 1, kernel, 2, (kernel - 2) // 2, bias=False))
        self.blocks = blocks

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n, latent_dim), (n,) -> (n, 1, size, size), of which gan.image_range is black to white."""
        return self.blocks(torch.cat([latents, self.label(labels)], dim=1)[:, :, None, None]).tanh()


class Discriminator(nn.Module):
    """Images and classes to logits: strided convolutions on the image and a plane made of the class.

    With gan.label_injection=auxiliary there is no plane; it has an output for each class beside that for real or
    generated, and learns to name the class of real images (Odena et al. 2017).
    """

    def __init__(self, settings: Gan) -> None:
        super().__init__()
        self.size, self.auxiliary = settings.size, settings.label_injection == "auxiliary"
        kernel, blocks = settings.discriminator_kernel, nn.Sequential()
        if not self.auxiliary:
            self.label = Label(settings, settings.size**2)
        previous = 1 if self.auxiliary else 2
        for number, channels in enumerate(settings.discriminator_channels):
            norm = [_norm(settings, channels)] if number else []
            convolution = Convolution(previous, channels, kernel, 2, (kernel - 2) // 2, bias=False)
            blocks.append(nn.Sequential(convolution, *norm, nn.LeakyReLU(0.1)))
            previous = channels
        # 4x4 -> 1x1; at the paper's kernel of 6 with a border of 1
        outputs = 1 + CLASSES if self.auxiliary else 1
        blocks.append(Convolution(previous, outputs, kernel, 1, (kernel - 4) // 2, bias=False))
        self.blocks = blocks

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n, 1, size, size) in gan.image_range, (n,) -> (n, 1) logits, above 0 where it takes an image for real.

        (n, 1 + CLASSES) with gan.label_injection=auxiliary, where `labels` are not looked at.
        """
        if self.auxiliary:
            return self.blocks(images).flatten(1)
        plane = self.label(labels).view(-1, 1, self.size, self.size)
        return self.blocks(torch.cat([images, plane], dim=1)).flatten(1)


def build_gan(settings: Gan) -> tuple[Generator, Discriminator]:
    """Both networks with weights drawn from gan.seed, as in DCGAN (Radford et al. 2016).

    Convolutions N(0, 0.02), the gain of batch norms N(1, 0.02), the rest as torch does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        generator, discriminator = Generator(settings), Discriminator(settings)
        for module in (*generator.modules(), *discriminator.modules()):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
    return generator, discriminator


def to_range(images: torch.Tensor, settings: Gan) -> torch.Tensor:
    """uint8 -> float32 in gan.image_range."""
    black, white = settings.image_range
    return images.float().mul_((white - black) / 255).add_(black)


def sample(
    generator: Generate, latents: torch.Tensor, labels: torch.Tensor, settings: Gan, *, batch_size: int
) -> torch.Tensor:
    """(n, latent_dim), (n,) -> (n, size, size) uint8 on the CPU, `batch_size` at a time.

    Values are clipped before the cast: a cast alone wraps, which shows as white speckle in the published images.
    """
    black, white = settings.image_range
    parts = []
    with torch.inference_mode():
        for start in range(0, len(latents), batch_size):
            part = slice(start, start + batch_size)
            images = generator(latents[part], labels[part])[:, 0].float()
            grey = images.sub(black).mul(255 / (white - black))
            parts.append(grey.round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(parts)


def _norm(settings: Gan, channels: int) -> nn.Module:
    if settings.norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    kind = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}[settings.norm]
    return cast(nn.Module, kind(channels))
