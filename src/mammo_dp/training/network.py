"""Training every parameter of a classifier on images, without privacy."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mammo_dp.data.transforms import FLIPS, flip, scaled, square
from mammo_dp.privacy.planning import Plan
from mammo_dp.privacy.sampling import NONE_LEFT, FullBatch, Randomness, ShuffledBatches, left_of
from mammo_dp.privacy.units import Units
from mammo_dp.sections import Classifier, Recipe, Runtime
from mammo_dp.training import checkpoint
from mammo_dp.training.features import normalized, seeded_layers
from mammo_dp.training.optimizers import inner_optimizer
from mammo_dp.training.selection import Selection


class Network(nn.Module):
    """Body and head as one network: (n, 3, s, s) -> (n, 2) logits."""

    def __init__(self, body: nn.Module, head: nn.Module, *, normalize: bool) -> None:
        super().__init__()
        self.body, self.head, self.normalize = body, head, normalize

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.body(inputs)
        return self.head(normalized(features) if self.normalize else features)


class NetworkTrainer:
    """One training run of body and head, a step at a time. All its randomness comes from generators of its own."""

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
        if plan.mechanism is not None:
            raise ValueError("every parameter is trained without privacy only: nothing is clipped here")
        self.plan, self.recipe, self.classifier, self.runtime = plan, recipe, classifier, runtime
        self.device = device
        on_last = runtime.channels_last
        self.format = torch.channels_last if (on_last or on_last is None) else torch.contiguous_format
        self.network = network.requires_grad_(True).to(device, memory_format=self.format)  # type: ignore[call-overload]
        self.images = torch.from_numpy(square(images, classifier.input_size)).to(device)
        self.units, self.labels = units, labels.to(device)
        self.batches_rng = randomness.generator("batches")
        self.layers_rng = randomness.generator("layers")
        count = len(units)
        self.batches = (
            FullBatch(count)
            if recipe.batch_size is None
            else ShuffledBatches(count, recipe.batch_size, self.batches_rng, NONE_LEFT)
        )
        self.optimizer = inner_optimizer(self.network, recipe)
        self.step_number = 0
        self.selection = Selection(recipe, self.network, steps=plan.steps)

    def step(self) -> None:
        """Draw a batch of units, and move every parameter along the mean over them of their images' mean loss."""
        self.network.train()
        chosen = self.batches.next()
        groups = list(self.units.by_size(chosen))
        positions = torch.cat([group.flatten() for group in groups])
        weights = torch.cat([torch.full((g.numel(),), 1 / g.shape[1] / len(chosen)) for g in groups])
        self.optimizer.zero_grad(set_to_none=True)
        # a part at a time: a full batch of images does not fit a machine's memory
        for start in range(0, len(positions), self.runtime.batch_size):
            part = slice(start, start + self.runtime.batch_size)
            self._loss(positions[part], weights[part].to(self.device)).backward()
        self.optimizer.step()
        self.step_number += 1
        self.selection.after_step(self.step_number)

    def _loss(self, positions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        inputs, labels = self._views(positions), self.labels[positions.to(self.device)]
        if self.recipe.flips == "all":
            labels, weights = labels.repeat(FLIPS), weights.repeat(FLIPS) / FLIPS
        with seeded_layers(self.layers_rng, self.device), self._precision():
            logits = self.network(inputs)
        losses = functional.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        return (losses * weights).sum()

    def _views(self, positions: torch.Tensor) -> torch.Tensor:
        """Inputs of the network: each image flipped at random, once in every way, or not at all."""
        inputs = self._inputs(positions)
        if self.recipe.flips == "all":
            return torch.cat([flip(inputs, variant) for variant in range(FLIPS)])
        if self.recipe.flips == "random":  # horizontal and vertical, each with probability 0.5
            variants = torch.randint(FLIPS, (len(positions),), generator=self.batches_rng).to(self.device)
            for bit in (1, 2):
                inputs = torch.where((variants & bit > 0)[:, None, None, None], flip(inputs, bit), inputs)
        return inputs

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
            found.append(torch.stack(logits).softmax(dim=-1)[..., 1].mean(dim=0).double().cpu())
        return torch.cat(found).numpy() if found else np.empty(0)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, enough to go on bit for bit."""
        return {
            "plan": asdict(self.plan),
            "step": self.step_number,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "left": left_of(self.batches),
            "selection": self.selection.state_dict(),
            "batches_rng": self.batches_rng.get_state(),
            "layers_rng": self.layers_rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        checkpoint.check_plan(state["plan"], self.plan)
        self.step_number = state["step"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if isinstance(self.batches, ShuffledBatches):
            self.batches.left = state["left"]
        self.selection.load_state_dict(state["selection"])
        self.batches_rng.set_state(state["batches_rng"])
        self.layers_rng.set_state(state["layers_rng"])
