#!/usr/bin/env python
"""The table that norm, image range and crop of gan=mcgan were chosen by (docs/gan.md).

    python benchmarks/choose_gan.py DATASET_ROOT WEIGHTS --size 32              # 36 runs: hours on two cores
    python benchmarks/choose_gan.py DATASET_ROOT WEIGHTS --size 64 --seeds 0 1  # a GPU: two minutes

DATASET_ROOT: the folder of the released CBIS-DDSM patches (dataset=release). WEIGHTS: ImageNet weights of MobileNetV2,
whose features the Frechet distance is measured in. Every run has as many steps. The rule: of the norms whose samples
spread over latents at least half as far as real images do, in both classes and all runs, the range and the crop with
the lowest distance to training patches, mean over classes and seeds. The linear probe trained on samples is shown and
takes no part: its labels are those of patients.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mammo_dp import cli
from mammo_dp.config import Config
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.data.transforms import resized
from mammo_dp.engine.artifacts import Store
from mammo_dp.files import Cache
from mammo_dp.metrics.frechet import frechet_distance
from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.features import encoder, inputs_of
from mammo_dp.models.mcgan import CLASSES, build_gan, sample
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training import device as devices
from mammo_dp.training.gan_trainer import GanTrainer, draw_latents, spread
from mammo_dp.training.plans import make_generator_plan

NORMS, RANGES, CROPS = ("instance", "batch", "group"), ("[0,1]", "[-1,1]"), ("inside", "mirrored")
GENERATOR, DISCRIMINATOR = [1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024]  # the paper's, for 128 px
SAMPLES = 500  # of each class
FEWEST_SHARE = 0.5


Encode = Callable[[torch.Tensor], torch.Tensor]


def features(config: Config, images: np.ndarray, encode: Encode) -> np.ndarray:
    images, count = resized(images, config.patches.size), 32
    parts = [images[k : k + count] for k in range(0, len(images), count)]
    return torch.cat([encode(inputs_of(part, config.classifier)).cpu() for part in parts]).numpy()


def trained(config: Config, images: np.ndarray, labels: np.ndarray, device: torch.device) -> GanTrainer:
    with tempfile.TemporaryDirectory() as folder:
        trainer = GanTrainer(
            build_gan(config.gan), torch.from_numpy(images), torch.from_numpy(labels),
            Units.of_each(range(len(images))),
            plan=make_generator_plan(config, images=len(images), cache=Cache(Path(folder))), settings=config.gan,
            runtime=config.runtime, randomness=Randomness(False, config.gan.seed, "choice"), device=device,
        )  # fmt: skip
    for _ in range(trainer.plan.steps):
        trainer.step()
    return trainer


def measured(
    config: Config, trainer: GanTrainer, real: dict[str, tuple[np.ndarray, np.ndarray]], encode: Encode
) -> dict[str, float]:
    """Spread, Frechet distance by class, and the AUROC of a probe trained on samples."""
    latents, _ = draw_latents(
        CLASSES * SAMPLES, config.gan.latent_dim, torch.Generator(trainer.device).manual_seed(1)
    )
    labels = torch.arange(CLASSES, device=trainer.device).repeat_interleave(SAMPLES)
    images = sample(trainer.kept.eval(), latents, labels, config.gan, batch_size=64)
    of_samples, classes = features(config, images.numpy(), encode), labels.cpu().numpy()
    mean, deviation = of_samples.mean(axis=0), of_samples.std(axis=0) + 1e-6
    probe = LogisticRegression(C=1e-3, max_iter=500).fit((of_samples - mean) / deviation, classes)
    found = {f"spread_{k}": spread(images[classes == k]) / trainer.real_spread[k] for k in range(CLASSES)}
    for name, (of_real, malignant) in real.items():
        for k in range(CLASSES):
            found[f"{name}_{k}"] = frechet_distance(of_real[malignant == k], of_samples[classes == k])
        found[f"probe_{name}"] = roc_auc_score(
            malignant, probe.decision_function((of_real - mean) / deviation)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root")
    parser.add_argument("weights")
    parser.add_argument("--size", type=int, choices=(32, 64, 128), default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=14, help="of 69 steps")
    parser.add_argument("--norms", nargs="+", default=NORMS)
    parser.add_argument("--ranges", nargs="+", default=RANGES)
    parser.add_argument("--crops", nargs="+", default=CROPS)
    parser.add_argument("--outputs", default="outputs")
    options = parser.parse_args()
    blocks = {32: 3, 64: 4, 128: 5}[options.size]
    words = [
        "dataset=release", f"dataset.root={options.root}", "classifier=mobilenetv2", f"outputs={options.outputs}",
        f"classifier.weights={options.weights}", "gan=mcgan_published", f"gan.size={options.size}",
        f"gan.generator_channels={GENERATOR[-blocks:]}", f"gan.discriminator_channels={DISCRIMINATOR[:blocks]}",
        f"gan.epochs={options.epochs}",
    ]  # fmt: skip
    if cli.main([*words, "stage=extract_patches"]) != cli.DONE:
        raise SystemExit(1)
    (config,) = cli.compose([[*words, "stage=train_gan"]])
    device = devices.prepare(config.runtime)
    encode = encoder(build_backbone(config.classifier), device, precision="float32")
    artifacts = Store(Path(config.outputs)).finished("extract_patches")
    patches = PatchSet.load(max(artifacts, key=lambda a: (a.folder / "manifest.json").stat().st_mtime_ns))
    small = resized(patches.images, options.size)
    rows = {name: patches.rows(name) for name in ("train", "val")}
    real = {name: (features(config, small[r], encode), patches.malignant[r]) for name, r in rows.items()}
    train = rows["train"]
    scores: dict[tuple[str, ...], list[float]] = {}
    spreads: dict[str, float] = {}
    print(
        "norm range crop seed steps | spread benign malignant | distance to train, to val | probe train, val"
    )
    for norm, black_to_white, crop, seed in itertools.product(
        options.norms, options.ranges, options.crops, options.seeds
    ):
        changed = [
            f"gan.norm={norm}",
            f"gan.image_range={black_to_white}",
            f"gan.crop={crop}",
            f"gan.seed={seed}",
        ]
        (run,) = cli.compose([[*words, "stage=train_gan", *changed]])
        trainer = trained(run, small[train], patches.malignant[train], device)
        m = measured(run, trainer, real, encode)
        print(
            f"{norm} {black_to_white} {crop} {seed} {trainer.plan.steps} | {m['spread_0']:.2f} {m['spread_1']:.2f} | "
            f"{m['train_0']:.0f} {m['train_1']:.0f}, {m['val_0']:.0f} {m['val_1']:.0f} | "
            f"{m['probe_train']:.2f}, {m['probe_val']:.2f}",
            flush=True,
        )
        scores.setdefault((norm, black_to_white, crop), []).append((m["train_0"] + m["train_1"]) / 2)
        spreads[norm] = min(spreads.get(norm, 9.0), m["spread_0"], m["spread_1"])
    sound = {key: float(np.mean(values)) for key, values in scores.items() if spreads[key[0]] >= FEWEST_SHARE}
    for key, value in sorted(sound.items(), key=lambda item: item[1]):
        print(f"{' '.join(key)}: {value:.0f}")
    print(f"chosen: {' '.join(min(sound, key=lambda key: sound[key]))}" if sound else "no norm is sound")


if __name__ == "__main__":
    main()
