"""Training a GAN: the steps of both networks, what stops a run, and the state to resume from.

Where `gan.privacy.epsilon` is finite, the discriminator's gradient on real images is clipped for each unit, summed and
noised; everything else, the generator included, sees private images through that sum alone (post-processing).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mammo_dp.config.schema import Gan, Runtime
from mammo_dp.data.augmentation import differentiable, random_views
from mammo_dp.engine.artifacts import Output
from mammo_dp.errors import UserError
from mammo_dp.models.mcgan import CLASSES, Discriminator, Generator, to_range
from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.privacy.network_gradients import (
    check_no_batch_statistics,
    clipped_sum,
    images_at_once,
    unit_gradients,
)
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.plans import Plan
from mammo_dp.training.trainer import Trainer, train

SATURATED_LOSS = 1e-3  # loss on generated images below which the discriminator is certain of all of them
ALL_ALIKE = 1.0  # spread, in grey levels of 255, below which the samples of a class are one image
COLLAPSED_CHECKPOINTS = 3  # in a row below gan.stop_spread, before it is a collapse
PATHOLOGIES = ("benign", "malignant")


class Diverged(UserError):
    """The training has failed in a way that more steps do not repair. The message names what is kept."""


class GanTrainer(Trainer):
    """A run that trains both networks, a step of the discriminator at a time. Patches lie on the device as uint8."""

    def __init__(
        self,
        networks: tuple[Generator, Discriminator],
        images: torch.Tensor,
        labels: torch.Tensor,
        units: Units,
        *,
        plan: Plan,
        settings: Gan,
        runtime: Runtime,
        randomness: Randomness,
        device: torch.device,
    ) -> None:
        """images: (n, size, size) uint8; labels: (n,) of 0 and 1; `units`: positions in both.

        Raises ValueError if the plan is private and the discriminator mixes the images of a batch.
        """
        super().__init__(
            units, plan=plan, batch_size=settings.batch_size, randomness=randomness, device=device
        )
        self.settings, self.runtime = settings, runtime
        self.images, self.labels = images[:, None].to(device), labels.to(device)
        self.generator, self.discriminator = (network.to(device) for network in networks)
        last = runtime.channels_last if runtime.channels_last is not None else device.type == "cuda"
        self.format = torch.channels_last if last else torch.contiguous_format
        for network in (self.generator, self.discriminator):
            network.to(memory_format=self.format)  # type: ignore[call-overload]
        # what is kept and sampled from
        self.kept = (
            copy.deepcopy(self.generator).requires_grad_(False) if settings.averaging else self.generator
        )
        self.generate, self.judge = self._callable(self.generator), self._callable(self.discriminator)
        self.views_rng, self.latents_rng = self.stream("views", device), self.stream("latents", device)
        adam: dict[str, Any] = {"lr": settings.lr, "betas": tuple(settings.betas), "fused": True}
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), **adam)
        self.discriminator_adam = torch.optim.Adam(self.discriminator.parameters(), **adam)
        if plan.mechanism is not None:
            check_no_batch_statistics(self.discriminator)
            one = (
                torch.zeros(1, 1, settings.size, settings.size, device=device),
                torch.zeros(1, dtype=torch.int64, device=device),
            )
            target = torch.zeros(1, 2, device=device)
            limit = runtime.memory_limit
            self.at_once = images_at_once(
                self.discriminator, _on_one_generated, one, target, memory_limit=limit
            )
            self.make_private(self.discriminator_adam, list(self.discriminator.parameters()))
            assert self.optimizer is not None
            self.optimizer.before_step = self._add_generated
        self.losses = torch.zeros(len(self.loss_names), device=device)  # sums over the present epoch
        self.certain_epochs, self.collapsed_checkpoints = 0, 0  # in a row
        self.best_distance, self.best_epoch = float("inf"), 0

    @property
    def loss_names(self) -> tuple[str, ...]:
        """On real images only where they are not private: they are exact functions of them."""
        names = ("loss_generator", "loss_generated")
        return names if self.plan.mechanism is not None else (*names, "loss_real")

    def _callable(self, network: nn.Module) -> Callable[..., torch.Tensor]:
        return torch.compile(network) if self.runtime.compile else network  # type: ignore[return-value]

    # --- one step ------------------------------------------------------------------------------------------------

    def update(self, chosen: torch.Tensor) -> None:
        """One step of the discriminator and, every `gan.discriminator_steps`, one of the generator."""
        turn = (self.step_number + 1) % self.settings.discriminator_steps == 0
        # where images are private, how many were drawn is private too
        count = len(chosen) if self.plan.mechanism is None else self.settings.batch_size
        latents, labels = self._latents(count)
        with torch.set_grad_enabled(turn), self._precision():
            generated = self.generate(latents, labels)
        if self.plan.mechanism is None:
            self._step_discriminator(chosen, self._augmented(generated.detach()), labels)
        else:
            self.generated = (self._augmented(generated.detach().float()), labels)
            self.private_step(chosen)  # noise and scale, then _add_generated, then Adam
        if turn:
            self._step_generator(generated, labels)

    def _step_discriminator(
        self, chosen: torch.Tensor, generated: torch.Tensor, generated_labels: torch.Tensor
    ) -> None:
        positions = torch.cat([p.flatten() for p in self.units.by_size(chosen)])
        real, labels, target = self._real(positions)
        with self._precision():
            if self.settings.norm == "batch":  # as in DCGAN: statistics of real and of generated images apart
                on_real, on_generated = self.judge(real, labels), self.judge(generated, generated_labels)
            else:
                both = torch.cat([real, generated.to(real.dtype)]), torch.cat([labels, generated_labels])
                on_real, on_generated = self.judge(*both).split([len(real), len(generated)])
        loss_real = on_real_images(on_real.float(), target, labels)
        loss_generated = on_generated_images(on_generated.float())
        self.discriminator_adam.zero_grad(set_to_none=True)
        (loss_real + loss_generated).backward()
        self.discriminator_adam.step()
        self.losses[2] += loss_real.detach()

    def private_sum(self, chosen: torch.Tensor, *, account: bool = False) -> GridSum:
        """Of the discriminator, on real images. No account is kept of single units."""
        total = GridSum(
            [tuple(p.shape) for p in self.discriminator.parameters()],
            clip=self.settings.privacy.max_grad_norm,
        )
        groups = list(self.units.by_size(chosen))
        if groups:
            sizes = torch.cat([torch.full((len(g),), g.shape[1], dtype=torch.int64) for g in groups])
            real, labels, target = self._real(torch.cat([g.flatten() for g in groups]))
            for means in self._unit_gradients((real, labels), _on_one_real, target, sizes):
                total.add_formed(means)
        return total

    def _add_generated(self) -> None:
        """Add the gradient on generated images to the noisy one on real images: it needs no noise.

        It is clipped as well, image by image, so that both halves have one scale.
        """
        images, labels = self.generated
        count = len(images)
        target, sizes = torch.zeros(count, device=self.device), torch.ones(count, dtype=torch.int64)
        means = self._unit_gradients((images, labels), _on_one_generated, target, sizes)
        sums = clipped_sum(self.discriminator, means, max_grad_norm=self.settings.privacy.max_grad_norm)
        for parameter, added in zip(self.discriminator.parameters(), sums, strict=True):
            parameter.grad = parameter.grad + added / count  # type: ignore[operator]

    def _unit_gradients(
        self,
        inputs: tuple[torch.Tensor, torch.Tensor],
        loss: Callable[..., torch.Tensor],
        target: torch.Tensor,
        sizes: torch.Tensor,
    ) -> Iterator[list[torch.Tensor]]:
        return unit_gradients(
            self.discriminator,
            loss,
            inputs,
            torch.stack([target, inputs[1].to(target.dtype)], dim=1),
            sizes,
            at_once=self.at_once,
            alone=self.randomness.secure,
        )

    def _step_generator(self, generated: torch.Tensor, labels: torch.Tensor) -> None:
        with self._precision():
            logits = self.judge(self._augmented(generated), labels).float()
        ones = torch.ones_like(logits[:, 0])
        loss = on_real_images(logits, ones, labels)  # to be taken for real, of the class
        # of the generator alone: the discriminator's own gradients would be thrown away
        self.generator_adam.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.generator.parameters()))
        self.generator_adam.step()
        if self.kept is not self.generator:
            with torch.no_grad():
                for mean, now in zip(self.kept.parameters(), self.generator.parameters(), strict=True):
                    mean.lerp_(now, 1 - self.settings.averaging)
                for mean, now in zip(self.kept.buffers(), self.generator.buffers(), strict=True):
                    mean.copy_(now)
        self.losses[0] += loss.detach()
        self.losses[1] += on_generated_images(logits.detach())

    def _real(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Real images, flipped, cropped and augmented at random, their classes and the discriminator's targets."""
        s, positions = self.settings, positions.to(self.device)
        scaled = to_range(self.images[positions], s).contiguous(memory_format=self.format)
        images = random_views(
            scaled, self.views_rng, flips=s.flips, zoom=s.zoom, aspect=s.aspect, crop=s.crop
        )
        images = self._augmented(images)
        low, high = s.real_target
        target = low + (high - low) * torch.rand(len(images), generator=self.views_rng, device=self.device)
        return images, self.labels[positions], target

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        kinds, (black, white) = self.settings.augment, self.settings.image_range
        if not kinds:
            return images
        middle, half = (black + white) / 2, (white - black) / 2  # its sizes are of images in [-1, 1]
        return differentiable((images - middle) / half, self.views_rng, list(kinds)) * half + middle

    def _latents(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw_latents(count, self.settings.latent_dim, self.latents_rng)

    def _precision(self) -> AbstractContextManager[Any]:
        half = self.runtime.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    # --- what stops a run ----------------------------------------------------------------------------------------

    def check_finite(self) -> None:
        """Raise Diverged if a loss of the present epoch is not finite."""
        if not self.losses.isfinite().all():
            raise Diverged(
                f"the losses are no longer finite at step {self.step_number} (epoch {self.epoch + 1})"
            )

    def end_epoch(self) -> dict[str, float]:
        """Mean losses of the epoch that has just ended.

        Raises Diverged if the discriminator has been certain of every generated image for gan.stop_after epochs.
        """
        self.check_finite()
        per_epoch = self.plan.steps_per_epoch
        turns = self.step_number // self.settings.discriminator_steps
        turns -= (self.step_number - per_epoch) // self.settings.discriminator_steps
        counts = [turns, turns, per_epoch][: len(self.losses)]
        # an epoch may end before the generator's turn comes
        pairs = zip(self.loss_names, self.losses.tolist(), counts, strict=True)
        means = {name: total / count for name, total, count in pairs if count}
        self.losses.zero_()
        if "loss_generated" in means:
            self.certain_epochs = self.certain_epochs + 1 if means["loss_generated"] < SATURATED_LOSS else 0
        if self.certain_epochs >= self.settings.stop_after:
            raise Diverged(
                f"the discriminator has been certain of every generated image for {self.certain_epochs} epochs "
                f"(loss below {SATURATED_LOSS:g}), and the generator learns nothing from it any more"
            )
        return means

    def check_spread(self, samples: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """The spread of a checkpoint's samples over latents, per class, as a share of the real images' own.

        (n, size, size) uint8, (n,). Raises Diverged if all samples of a class are one image, or if a class has spread
        less than gan.stop_spread for COLLAPSED_CHECKPOINTS checkpoints. Where real images are private they are not
        looked at, and the spread is in grey levels.
        """
        grey = {label: spread(samples[labels == label]) for label in range(CLASSES)}
        for label, value in grey.items():
            if value < ALL_ALIKE:
                raise Diverged(
                    f"all samples of the class {PATHOLOGIES[label]} are alike (they spread by {value:.2f} of 255 grey "
                    "levels): the generator has collapsed"
                )
        if self.plan.mechanism is not None:
            return {f"spread_{PATHOLOGIES[label]}": value for label, value in grey.items()}
        real = self.real_spread
        shares = [value / real[label] if real[label] else 1.0 for label, value in grey.items()]
        low = min(shares) < self.settings.stop_spread
        self.collapsed_checkpoints = self.collapsed_checkpoints + 1 if low else 0
        if self.collapsed_checkpoints >= COLLAPSED_CHECKPOINTS:
            raise Diverged(
                f"samples of the class {PATHOLOGIES[int(np.argmin(shares))]} spread over latents by {min(shares):.2f} "
                f"of what its real images do, below gan.stop_spread={self.settings.stop_spread:g} for "
                f"{COLLAPSED_CHECKPOINTS} checkpoints: the generator has collapsed"
            )
        return {f"spread_{name}": share for name, share in zip(PATHOLOGIES, shares, strict=True)}

    @cached_property
    def real_spread(self) -> list[float]:
        """Of each class's real images, in grey levels; for generators without privacy."""
        positions = torch.cat(
            [group.flatten() for group in self.units.by_size(torch.arange(len(self.units)))]
        )
        images, labels = self.images[positions.to(self.device), 0], self.labels[positions.to(self.device)]
        return [spread(images[labels == label]) for label in range(CLASSES)]

    def consider(self, distance: float) -> None:
        """Keep the present epoch's generator if it has the lowest distance so far (gan.select=fid)."""
        if distance < self.best_distance:
            self.best_distance, self.best_epoch = distance, self.epoch

    # --- resume --------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        names = ("generator", "kept", "discriminator", "generator_adam", "discriminator_adam")
        return {name: getattr(self, name) for name in names}

    def numbers(self) -> dict[str, Any]:
        names = ("losses", "certain_epochs", "collapsed_checkpoints", "best_distance", "best_epoch")
        return {name: getattr(self, name) for name in names}


def train_gan(
    trainer: GanTrainer,
    *,
    output: Output,
    checkpoint_seconds: float,
    keep: Callable[[int], dict[str, float]],
    curves: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Run to the end, or from the last checkpoint.

    `keep` is called with the number of the epoch every gan.checkpoint_every epochs and after the last: it writes the
    generator, and what it returns is logged beside the losses. `curves` gets what is logged.
    Raises Diverged, which names the checkpoint that is kept.
    """
    settings = trainer.settings

    def after_epoch(epoch: int) -> dict[str, float]:
        row = trainer.end_epoch()
        if epoch % settings.checkpoint_every == 0 or trainer.step_number == trainer.plan.steps:
            row |= keep(epoch)
            trainer.save_now = True
        if curves is not None:
            curves(epoch, row)
        return row

    try:
        train(trainer, output=output, checkpoint_seconds=checkpoint_seconds, after_epoch=after_epoch)
    except Diverged as error:
        kept = sorted(path.name for path in (output.folder / "checkpoints").glob("*.safetensors"))
        last = "no generator was kept yet"
        if kept:
            last = f"the last generator that was kept is checkpoints/{kept[-1]} in its folder"
        raise Diverged(
            f"{error}; {last}; train again with a smaller gan.lr (now {settings.lr:g}), another gan.norm or gan.seed"
        ) from None


def on_real_images(logits: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The discriminator's mean loss on real images. logits: (n, 1), or (n, 1 + CLASSES) where it names the class."""
    loss = functional.binary_cross_entropy_with_logits(logits[:, 0], target)
    return loss + functional.cross_entropy(logits[:, 1:], labels) if logits.shape[1] > 1 else loss


def on_generated_images(logits: torch.Tensor) -> torch.Tensor:
    """The discriminator's mean loss on generated images, whose target is 0 and whose class it need not name."""
    return functional.softplus(logits[:, 0]).mean()


def _on_one_real(logits: torch.Tensor, target_and_label: torch.Tensor) -> torch.Tensor:
    return on_real_images(logits, target_and_label[:, 0], target_and_label[:, 1].long())


def _on_one_generated(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return on_generated_images(logits)


def draw_latents(
    count: int, latent_dim: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, latent_dim) standard normal latents and (count,) uniform classes, on the generator's device."""
    device = generator.device
    latents = torch.randn(count, latent_dim, generator=generator, device=device)
    return latents, torch.randint(CLASSES, (count,), generator=generator, device=device)


def spread(images: torch.Tensor) -> float:
    """How far (n, size, size) uint8 images are from one another: standard deviation of a pixel, mean over pixels."""
    return float(images.float().std(dim=0).mean()) if len(images) > 1 else 0.0
