"""Training a classifier on images: every parameter, its biases or its last stage, with or without privacy."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mammo_dp.config.schema import Classifier, Recipe, Runtime
from mammo_dp.data.transforms import FLIPS, flip, scaled, square
from mammo_dp.models.backbone import set_trained
from mammo_dp.models.features import seeded_layers
from mammo_dp.models.head import p_malignant
from mammo_dp.models.preparation import Preparation
from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.privacy.network_gradients import check_no_batch_statistics, images_at_once, unit_gradients
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.plans import Plan
from mammo_dp.training.trainer import ClassifierTrainer


class Network(nn.Module):
    """Backbone and head as one network: (n, 3, s, s) -> (n, 2) logits."""

    def __init__(self, backbone: nn.Module, head: nn.Module, *, prepare: Preparation) -> None:
        super().__init__()
        self.backbone, self.head, self.prepare = backbone, head, prepare

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.prepare(self.backbone(inputs)))


class NetworkTrainer(ClassifierTrainer):
    """A run that trains backbone and head on images.

    Where only a part trains, or gradients are private, the network is in eval mode: statistics of a batch would let one
    image into the gradients of others. Training every parameter without privacy has the usual train mode.
    """

    def __init__(
        self,
        network: Network,
        images: np.ndarray,
        units: Units,
        labels: torch.Tensor,
        *,
        plan: Plan,
        recipe: Recipe,
        classifier: Classifier,
        runtime: Runtime,
        randomness: Randomness,
        device: torch.device,
    ) -> None:
        """images: (n, h, w) uint8, kept on the device; `units` hold positions in them; labels: (n,) of 0 and 1."""
        self.classifier, self.runtime = classifier, runtime
        on_last = runtime.channels_last
        self.format = torch.channels_last if (on_last or on_last is None) else torch.contiguous_format
        self.network = network.to(device, memory_format=self.format)  # type: ignore[call-overload]
        set_trained(network.backbone, network.head, classifier.trainable)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        super().__init__(
            network, trained, units, plan=plan, recipe=recipe, randomness=randomness, device=device
        )
        self.as_in_training = plan.mechanism is None and classifier.trainable == "all"
        self.images = torch.from_numpy(square(images, classifier.input_size)).to(device)
        self.labels = labels.to(device)
        self.layers_rng = self.stream("layers")
        if plan.mechanism is not None:
            check_no_batch_statistics(network.eval())
            self.at_once = images_at_once(
                network, self._loss_of_one, [self._inputs(torch.tensor([0]))], self.labels[:1],
                memory_limit=runtime.memory_limit,
            )  # fmt: skip

    def update(self, chosen: torch.Tensor) -> None:
        self.network.train(self.as_in_training)
        super().update(chosen)

    def private_sum(self, chosen: torch.Tensor, *, account: bool = False) -> GridSum:
        total = GridSum([tuple(p.shape) for p in self.trained], clip=self.recipe.max_grad_norm)
        for numbers, positions in self._parts(chosen):
            inputs, labels = self._views(positions.flatten())
            rows = len(labels) // len(positions)
            sizes = torch.full((len(positions),), rows, dtype=torch.int64)
            means = unit_gradients(
                self.network, self._loss_of_one, [inputs], labels, sizes,
                at_once=self.at_once, alone=self.randomness.secure,
            )  # fmt: skip
            squared = [total.add_formed(gradients) for gradients in means]
            if account:
                self.individual.add(numbers, torch.cat(squared))
        return total

    def _parts(self, chosen: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Numbers (units,) and (units, k) positions, so many units at a time that their views fit the memory."""
        flips = FLIPS if self.recipe.flips == "all" else 1
        for numbers, positions in self.units.numbered(chosen):
            most = max(1, self.at_once // (positions.shape[1] * flips))
            yield from zip(numbers.split(most), positions.split(most), strict=True)

    def _loss_of_one(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), label, label_smoothing=self.recipe.label_smoothing)

    def mean_gradients(self, chosen: torch.Tensor) -> None:
        groups = list(self.units.by_size(chosen))
        positions = torch.cat([group.flatten() for group in groups])
        weights = torch.cat([torch.full((g.numel(),), 1 / g.shape[1] / len(chosen)) for g in groups])
        # a part at a time: a full batch of images does not fit a machine's memory
        for start in range(0, len(positions), self.runtime.batch_size):
            part = slice(start, start + self.runtime.batch_size)
            self._loss(positions[part], weights[part].to(self.device)).backward()

    def _loss(self, positions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        inputs, labels = self._views(positions)
        if self.recipe.flips == "all":
            weights = weights.repeat_interleave(FLIPS) / FLIPS
        with seeded_layers(self.layers_rng, self.device), self._precision():
            logits = self.network(inputs)
        losses = functional.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        return (losses * weights).sum()

    def _views(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels: each image flipped at random, not at all, or in every way, its flips side by side."""
        inputs, labels = self._inputs(positions), self.labels[positions.to(self.device)]
        if self.recipe.flips == "all":
            views = torch.stack([flip(inputs, variant) for variant in range(FLIPS)], dim=1).flatten(0, 1)
            return views.contiguous(memory_format=self.format), labels.repeat_interleave(FLIPS)
        if self.recipe.flips == "random":  # horizontal and vertical, each with probability 0.5
            variants = torch.randint(FLIPS, (len(positions),), generator=self.batches_rng).to(self.device)
            for bit in (1, 2):
                inputs = torch.where((variants & bit > 0)[:, None, None, None], flip(inputs, bit), inputs)
        return inputs, labels

    def _inputs(self, positions: torch.Tensor) -> torch.Tensor:
        settings = self.classifier
        grey = scaled(self.images[positions.to(self.device)], mean=settings.mean, std=settings.std)
        return grey.contiguous(memory_format=self.format)

    def _precision(self) -> AbstractContextManager[Any]:
        half = self.runtime.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    @torch.no_grad()
    def scores(self, positions: np.ndarray, *, test_flips: bool) -> np.ndarray:
        """(k,) probability of malignant, without the layers' randomness; `test_flips`: the mean over the four flips."""
        self.network.eval()
        found = []
        for part in torch.from_numpy(positions).split(self.runtime.batch_size):
            inputs = self._inputs(part)
            with self._precision():
                logits = [self.network(flip(inputs, v)).float() for v in range(FLIPS if test_flips else 1)]
            found.append(p_malignant(torch.stack(logits)).mean(dim=0).cpu())
        return torch.cat(found).numpy() if found else np.empty(0)
