#!/usr/bin/env python
"""Images a second of the GAN's training step against a plain DCGAN loop, in one run.

    python benchmarks/gan_step.py              # the paper's networks: about four minutes on 2 cores
    python benchmarks/gan_step.py --gan small  # the toy's

The plain loop is what one writes by hand after the DCGAN example of PyTorch: PNGs through a DataLoader with
torchvision's transforms, float32, eager, two passes of the discriminator, and for the generator a backward pass through
everything. Networks, batch size, losses and optimizer settings are the same. They take turns, and the number to compare
is the ratio of the two medians: the machine may be busy. On a GPU ours runs with bfloat16 and torch.compile, and the
time of the paper's 1,400 epochs is projected from at least 100 measured ones.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mammo_dp import cli
from mammo_dp.config.schema import Gan
from mammo_dp.files import Cache
from mammo_dp.models.mcgan import Convolution, TransposedConvolution, build_gan
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training import device as devices
from mammo_dp.training.gan_trainer import GanTrainer
from mammo_dp.training.plans import make_generator_plan

IMAGES = 1104  # the paper's training set
PAPER_EPOCHS, PROJECTED_FROM = 1400, 100


class Folder(Dataset):
    """PNGs, opened one by one."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomResizedCrop(cv2.imread(str(paths[0])).shape[0], scale=(0.9, 1.1), ratio=(0.95, 1.1)),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self.transform(
            cv2.imread(str(self.paths[number]), cv2.IMREAD_GRAYSCALE)[..., None]
        ), number % 2


def plain_step(gan: Gan, folder: Path, device: torch.device, workers: int) -> Callable[[], None]:
    networks = [_plain(network).to(device) for network in build_gan(gan)]
    generator, discriminator = networks
    adams = [torch.optim.Adam(n.parameters(), lr=gan.lr, betas=tuple(gan.betas)) for n in networks]
    loader = DataLoader(
        Folder(sorted(folder.glob("*.png"))), gan.batch_size, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    batches = (batch for _ in itertools.count() for batch in loader)
    low, high = gan.real_target
    bce = functional.binary_cross_entropy_with_logits

    def step() -> None:
        real, labels = (x.to(device) for x in next(batches))
        count = len(real)
        target = low + (high - low) * torch.rand(count, 1, device=device)
        fake_labels = torch.randint(2, (count,), device=device)
        fake = generator(torch.randn(count, gan.latent_dim, device=device), fake_labels)
        adams[1].zero_grad()
        bce(discriminator(real, labels)[:, :1], target).backward()
        zeros, ones = torch.zeros(count, 1, device=device), torch.ones(count, 1, device=device)
        bce(discriminator(fake.detach(), fake_labels)[:, :1], zeros).backward()
        adams[1].step()
        adams[0].zero_grad()
        bce(discriminator(fake, fake_labels)[:, :1], ones).backward()
        adams[0].step()

    return step


def _plain(network: nn.Module) -> nn.Module:
    """With torch's own convolutions."""
    for module in network.modules():
        if isinstance(module, Convolution):
            module.__class__ = nn.Conv2d
        elif isinstance(module, TransposedConvolution):
            module.__class__ = nn.ConvTranspose2d
    return network


def our_step(config, images: np.ndarray, device: torch.device, cache: Path) -> Callable[[], None]:
    trainer = GanTrainer(
        build_gan(config.gan),
        torch.from_numpy(images),
        torch.arange(len(images)) % 2,
        Units.of_each(range(len(images))),
        plan=make_generator_plan(config, images=len(images), cache=Cache(cache)),
        settings=config.gan,
        runtime=config.runtime,
        randomness=Randomness(False, 0, "benchmark"),
        device=device,
    )
    return trainer.step


def seconds(step: Callable[[], None], steps: int, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - began) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gan", default="mcgan_published")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    fast = ["runtime.precision=bfloat16", "runtime.compile=true"] if cuda else []
    (config,) = cli.compose([[f"gan={options.gan}", "stage=train_gan", *fast]])
    device, size, batch = devices.prepare(config.runtime), config.gan.size, config.gan.batch_size
    steps = 200 if cuda else (40 if options.gan == "small" else 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, size, size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            cv2.imwrite(f"{folder}/{number:04d}.png", image)
        ways = {
            "plain loop": plain_step(config.gan, Path(folder), device, options.workers),
            "our step": our_step(config, images, device, Path(folder)),
        }
        for step in ways.values():
            seconds(step, 2 if not cuda else 50, device)  # caches, cuDNN's choice, compilation
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name, step in ways.items():
                taken[name].append(seconds(step, steps, device))
            words = ", ".join(f"{name} {times[-1]:.3f} s a step" for name, times in taken.items())
            print(f"round {number + 1}: {words}", flush=True)
        medians = {name: statistics.median(times) for name, times in taken.items()}
        for name, median in medians.items():
            print(f"{name}: {batch / median:.1f} images a second")
        ratio = medians["plain loop"] / medians["our step"]
        print(f"{devices.describe(device)}, gan={options.gan}, batch {batch}: {ratio:.2f} times")
        if cuda:
            per_epoch = -(-IMAGES // batch)
            measured = (
                seconds(ways["our step"], PROJECTED_FROM * per_epoch, device) * per_epoch * PAPER_EPOCHS / 60
            )
            print(f"{PAPER_EPOCHS} epochs, projected from {PROJECTED_FROM} measured: {measured:.1f} min")
        else:
            print("the time of the paper's 1,400 epochs on a GPU: not measured, there is none here")


if __name__ == "__main__":
    main()
