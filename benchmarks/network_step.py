#!/usr/bin/env python
"""Exact clipped sum of gradients of every parameter of Swin-T, image by image, against one ordinary pass of the batch.

    python benchmarks/network_step.py        # about a minute on 2 cores, 5 GiB

Batch 8, random weights, all 27.5 M parameters; three of each in turns. Compare the ratios: the machine
may be busy. Peak memory is the process's own.
"""

import resource
import time

import timm
import torch
from torch.nn import functional

from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.privacy.network_gradients import images_at_once, unit_gradients

BATCH, REPEATS, MEMORY_LIMIT = 8, 3, 4.0


def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, label)


def main() -> None:
    torch.manual_seed(0)
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2).eval()
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(2, (BATCH,))
    at_once = images_at_once(network, loss, [images[:1]], labels[:1], memory_limit=MEMORY_LIMIT)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {at_once} images at once")
    for _ in range(REPEATS):
        start = time.perf_counter()
        loss(network(images), labels).backward()
        plain = time.perf_counter() - start
        network.zero_grad(set_to_none=True)
        start = time.perf_counter()
        total = GridSum([tuple(p.shape) for p in network.parameters()], clip=1.0)
        sizes = torch.ones(BATCH, dtype=torch.int64)
        for means in unit_gradients(network, loss, [images], labels, sizes, at_once=at_once):
            total.add_formed(means)
        ours = time.perf_counter() - start
        print(f"plain {plain:.2f} s, ours {ours:.2f} s: {ours / plain:.2f} times", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
