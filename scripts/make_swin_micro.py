#!/usr/bin/env python
"""Pre-train the backbone of `classifier=swin_micro` and write src/mammo_dp/models/swin_micro.safetensors.

    python scripts/make_swin_micro.py        # about 7 minutes on 2 cores

The backbone plays the part that ImageNet plays for Swin-T: public knowledge of shapes. It learns to read the outline of
random blobs on a textured ground: the strength of each harmonic of the radius, the size and the contrast. It sees no
phantom study, no patient of the toy and no label.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from mammo_dp.config.compose import config_dir
from mammo_dp.config.schema import Classifier
from mammo_dp.models.backbone import build_backbone, feature_size
from mammo_dp.models.features import inputs_of

HARMONICS = np.arange(2, 13)
TARGET = Path(__file__).resolve().parents[1] / "src/mammo_dp/models/swin_micro.safetensors"


def blobs(rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, size, size) uint8 images and (count, harmonics + 2) targets of about unit variance."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    images, targets = [], []
    for _ in range(count):
        amplitudes = rng.exponential(0.08, len(HARMONICS)) * (rng.random(len(HARMONICS)) < 0.5)
        phases = rng.uniform(0, 2 * np.pi, len(HARMONICS))
        radius, contrast = rng.uniform(0.08, 0.24) * size, rng.uniform(0.05, 0.4)
        cx, cy = size / 2 + rng.normal(0, 0.02 * size, 2)
        angle, distance = np.arctan2(y - cy, x - cx), np.hypot(x - cx, y - cy)
        wave = (amplitudes * np.cos(angle[..., None] * HARMONICS + phases)).sum(axis=-1)
        mass = contrast / (1 + np.exp(np.clip((distance - radius * (1 + wave)) / 0.6, -30, 30)))
        ground = sum(
            cv2.resize(
                rng.normal(0, rng.uniform(0.005, 0.04), (n, n)), (size, size), interpolation=cv2.INTER_CUBIC
            )
            for n in (3, 5, 9, 17, 33)
        )
        image = rng.uniform(0.2, 0.6) + ground + mass + rng.normal(0, rng.uniform(0, 0.02), (size, size))
        images.append(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8))
        targets.append(np.concatenate([amplitudes / 0.08, [radius / (0.05 * size), contrast / 0.1]]))
    return np.stack(images), np.stack(targets).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    settings = Classifier.model_validate(
        {
            **OmegaConf.to_container(OmegaConf.load(config_dir() / "classifier/swin_micro.yaml")),
            "weights": "none",
        }  # type: ignore[dict-item]
    )
    backbone = build_backbone(settings).requires_grad_(True).train()
    head = nn.Linear(feature_size(backbone), len(HARMONICS) + 2)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=arguments.steps)
    rng = np.random.default_rng(arguments.seed)
    started, running = time.monotonic(), 0.0
    for step in range(1, arguments.steps + 1):
        images, targets = blobs(rng, arguments.batch, settings.input_size)
        loss = nn.functional.mse_loss(head(backbone(inputs_of(images, settings))), torch.from_numpy(targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            print(f"step {step}  loss {running / 100:.3f}  {time.monotonic() - started:.0f} s", flush=True)
            running = 0.0
            state = {key: value.detach().half().contiguous() for key, value in backbone.state_dict().items()}
            save_file(state, arguments.target, metadata={"seed": str(arguments.seed), "steps": str(step)})


if __name__ == "__main__":
    main()
