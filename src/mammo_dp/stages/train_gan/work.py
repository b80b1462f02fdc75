"""`stage=train_gan`: train MCGAN on the training patches and keep the generator that `gan.select` names."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from mammo_dp.config import Config
from mammo_dp.data.patch_set import PatchSet, encoded, write_png
from mammo_dp.data.transforms import resized
from mammo_dp.engine.artifacts import Artifact, Output, StageResult, Store
from mammo_dp.errors import UserError
from mammo_dp.files import digest, sha256, to_json, write_atomic
from mammo_dp.metrics.frechet import frechet_distance
from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.features import encoder, inputs_of
from mammo_dp.models.mcgan import CLASSES, Generate, Generator, build_gan, sample
from mammo_dp.privacy.loss_distribution import cross_check
from mammo_dp.privacy.noise import randomness_notes
from mammo_dp.privacy.sampling import Randomness, seeded_generator
from mammo_dp.reporting.loss_curves import loss_curves
from mammo_dp.reporting.mosaic import mosaic
from mammo_dp.stages.extract_features.work import FEATURES
from mammo_dp.training import device as devices
from mammo_dp.training.gan_trainer import PATHOLOGIES, GanTrainer, draw_latents, train_gan
from mammo_dp.training.plans import generator_mechanism, make_generator_plan, mechanism_record
from mammo_dp.training.units import check_both_classes, units_of

GENERATOR = "generator.safetensors"
SHOWN = 8  # samples of each class in a grid
SPREAD_SAMPLES = 64  # of each class, whose spread over latents is watched


def checkpoint_name(epoch: int) -> str:
    """Where the generator of an epoch lies in its artifact."""
    return f"checkpoints/epoch-{epoch:05d}.safetensors"


def check(config: Config) -> None:
    """Refuse a device that is not there, a claim that two accountants do not agree on, and weights that do not fit."""
    devices.prepare(config.runtime)
    if config.gan.privacy.is_private:
        cache = Store.of(config).cache
        cross_check(generator_mechanism(config, cache), delta=config.gan.privacy.delta, cache=cache)
    if config.gan.select == "fid":
        build_backbone(config.classifier)
    if config.runtime.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "runtime.tensorboard=true needs the package tensorboard; install the extra `tensorboard` "
            "(docs/install.md), or leave the setting out: log.jsonl and losses.svg hold the same curves"
        )


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    device = devices.prepare(config.runtime)
    patches = PatchSet.load(inputs["patches"])
    rows = patches.rows("train")
    check_both_classes(patches, rows, dataset=config.dataset.name)
    if config.gan.select == "fid" and min(np.bincount(patches.malignant[rows])) < 2:
        raise UserError(
            "gan.select=fid needs two training patches of each class at least; set gan.select=epoch"
        )
    trainer = _trainer(config, patches, rows, inputs, output, device)
    plan = trainer.plan
    distance = _distance(config, patches, rows, inputs, device) if config.gan.select == "fid" else None
    train_gan(
        trainer,
        output=output,
        checkpoint_seconds=config.runtime.checkpoint_seconds,
        keep=_keeper(trainer, config, output, distance),
        curves=_tensorboard(config, output),
    )
    noise = trainer.optimizer.noise if trainer.optimizer else None
    chosen = trainer.best_epoch if distance is not None else trainer.epoch
    weights = output.folder / GENERATOR
    weights.write_bytes((output.folder / checkpoint_name(chosen)).read_bytes())
    log = [json.loads(line) for line in (output.folder / "log.jsonl").read_text().splitlines()]
    (output.folder / "losses.svg").write_text(loss_curves(log))
    metrics = {
        "epoch": chosen,
        "steps": plan.steps,
        **{k: v for k, v in log[-1].items() if k.startswith("loss")},
    }
    if distance is not None:
        metrics["frechet_distance"] = trainer.best_distance
    return StageResult(
        metrics=metrics,
        summary=_summary(config, chosen, metrics),
        manifest={
            "privacy": mechanism_record(
                config.gan.privacy,
                plan,
                adjacency="zero_out",
                max_grad_norm=config.gan.privacy.max_grad_norm,
                sampler=noise.sampler if noise else None,
                cache=output.cache,
            ),
            "device": devices.describe(device),
            "parameters": {
                name: sum(p.numel() for p in network.parameters())
                for name, network in (
                    ("generator", trainer.generator),
                    ("discriminator", trainer.discriminator),
                )
            },
        },
        release=sha256(weights),
        assumptions=randomness_notes(noise),
    )


def _trainer(
    config: Config,
    patches: PatchSet,
    rows: np.ndarray,
    inputs: Mapping[str, Artifact],
    output: Output,
    device: torch.device,
) -> GanTrainer:
    privacy = config.gan.privacy
    units = units_of(patches, rows, unit=privacy.unit, setting="gan.privacy.unit")
    if not privacy.is_private:
        units = units_of(patches, rows, unit="image", setting="")  # no unit is protected: plain minibatches
    identity = digest({"run": output.identity, "patches": inputs["patches"].content_digest})
    return GanTrainer(
        build_gan(config.gan),
        torch.from_numpy(resized(patches.images, config.gan.size)),
        torch.from_numpy(patches.malignant),
        units,
        plan=make_generator_plan(config, images=len(rows), cache=output.cache),
        settings=config.gan,
        runtime=config.runtime,
        randomness=Randomness(
            secure=privacy.is_private and privacy.randomness == "secure", seed=config.gan.seed, run=identity
        ),
        device=device,
    )


def load_generator(artifact: Artifact, config: Config, *, epoch: int | None) -> tuple[Generator, str]:
    """The generator that gan.select chose, or that of a kept `epoch`, in eval mode; and its file's SHA-256."""
    path = artifact.path(GENERATOR if epoch is None else checkpoint_name(epoch))
    generator, _ = build_gan(config.gan)
    generator.load_state_dict(load_file(path))
    return generator.eval().requires_grad_(False), sha256(path)


def _keeper(
    trainer: GanTrainer,
    config: Config,
    output: Output,
    distance: Callable[[Generate], float] | None,
) -> Callable[[int], dict[str, float]]:
    """What is done every gan.checkpoint_every epochs: weights, a grid of the same latents, spread, distance."""
    (output.folder / "checkpoints").mkdir(exist_ok=True)
    fixed = seeded_generator(config.gan.seed, "grid", "latents", trainer.device)
    latents, _ = draw_latents(CLASSES * SPREAD_SAMPLES, config.gan.latent_dim, fixed)
    labels = torch.arange(CLASSES, device=trainer.device).repeat_interleave(SPREAD_SAMPLES)
    metadata = {"model": to_json({"gan": config.gan.model_dump(exclude={"privacy"})})}

    def keep(epoch: int) -> dict[str, float]:
        trainer.check_finite()
        generator = trainer.kept.eval()
        samples = sample(generator, latents, labels, config.gan, batch_size=config.runtime.batch_size)
        found = trainer.check_spread(samples, labels.cpu())
        by_class = samples.view(CLASSES, SPREAD_SAMPLES, *samples.shape[1:])[:, :SHOWN].numpy()
        rows = [(name, list(images)) for name, images in zip(PATHOLOGIES, by_class, strict=True)]
        write_png(output.folder / f"samples/epoch-{epoch:05d}.png", encoded(mosaic(rows)))
        state = {k: v.cpu().contiguous() for k, v in generator.state_dict().items()}
        write_atomic(output.folder / checkpoint_name(epoch), save(state, metadata=metadata))
        if distance is not None:
            found["frechet_distance"] = distance(generator)
            trainer.consider(found["frechet_distance"])
        trainer.generator.train()
        return found

    return keep


def _distance(
    config: Config, patches: PatchSet, rows: Any, inputs: Mapping[str, Artifact], device: torch.device
) -> Callable[[Generate], float]:
    """Frechet distance of a generator's samples to the training patches, mean over the classes (conditional)."""
    features = load_file(inputs["features"].path(FEATURES))["features"][:, 0].numpy()
    encode = encoder(build_backbone(config.classifier), device, precision=config.runtime.precision)
    count, batch_size = config.gan.select_images, config.runtime.batch_size
    fixed = seeded_generator(config.gan.seed, "select", "latents", device)
    latents = draw_latents(count, config.gan.latent_dim, fixed)[0]

    def of(generator: Generate) -> float:
        distances = []
        for label in range(CLASSES):
            labels = torch.full((count,), label, device=device)
            images = resized(
                sample(generator, latents, labels, config.gan, batch_size=batch_size).numpy(),
                config.patches.size,
            )
            made = torch.cat(
                [
                    encode(inputs_of(images[start : start + batch_size], config.classifier)).cpu()
                    for start in range(0, count, batch_size)
                ]
            )
            real = features[rows[patches.malignant[rows] == label]]
            distances.append(frechet_distance(real, made.numpy()))
        return sum(distances) / len(distances)

    return of


def _tensorboard(config: Config, output: Output) -> Callable[[int, dict[str, float]], None] | None:
    """A function that adds an epoch's numbers to TensorBoard's files, which are no part of the artifact."""
    if not config.runtime.tensorboard:
        return None
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(config.outputs) / ".tensorboard" / output.folder.name
    writer = SummaryWriter(str(folder))

    def add(epoch: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    return add


def _summary(config: Config, epoch: int, metrics: Mapping[str, Any]) -> str:
    chosen = f"epoch {epoch} of {config.gan.epochs}"
    if "frechet_distance" in metrics:
        chosen += f", Frechet distance {metrics['frechet_distance']:.2f}"
    return f"generator of {chosen}; look at samples/ in its folder"
