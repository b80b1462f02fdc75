"""Training a head, a step at a time, with or without privacy."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mammo_dp.data.transforms import FLIPS
from mammo_dp.privacy.gradients import TwoClassRows, block_shapes, contributions, gradient_sum
from mammo_dp.privacy.individual import Individual
from mammo_dp.privacy.mechanism import GridSum, PrivateOptimizer, exact_device
from mammo_dp.privacy.planning import Plan
from mammo_dp.privacy.sampling import (
    FullBatch,
    Randomness,
    ShuffledBatches,
    batches_of,
    left_of,
)
from mammo_dp.privacy.units import Units
from mammo_dp.sections import Recipe
from mammo_dp.training import checkpoint
from mammo_dp.training.features import FeatureSource
from mammo_dp.training.optimizers import inner_optimizer
from mammo_dp.training.selection import Selection

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # numbers of units, their features, their labels


def count_of(parameters: Sequence[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


@dataclass(frozen=True)
class PublicSet:
    """Units whose gradients are added without noise, and the weight of each against a private one."""

    units: Units
    weight: float


class HeadTrainer:
    """One training run of a head, a step at a time. All its randomness comes from generators of its own."""

    def __init__(
        self,
        head: nn.Sequential,
        source: FeatureSource,
        units: Units,
        labels: torch.Tensor,
        *,
        plan: Plan,
        recipe: Recipe,
        randomness: Randomness,
        device: torch.device,
        public: PublicSet | None = None,
    ) -> None:
        """`units` hold positions in the source; `labels`: (n,) of 0 and 1 for every position of the source."""
        self.head, self.source = head.to(device), source
        self.units, self.labels, self.public = units, labels.to(device), public
        self.plan, self.recipe, self.randomness, self.device = plan, recipe, randomness, device
        self.batches_rng = randomness.generator("batches")
        self.noise_rng = randomness.generator("noise", exact_device(device))
        self.public_rng = randomness.generator("public")
        self.batches = batches_of(
            len(units), plan.mechanism, recipe.batch_size, self.batches_rng, secure=randomness.secure
        )
        self.public_batches = public and batches_of(
            len(public.units), None, recipe.batch_size, self.public_rng
        )
        self.parameters = list(self.head.parameters())
        self.inner = inner_optimizer(self.parameters, recipe, plan)
        self.optimizer: PrivateOptimizer | None = None
        self.individual = Individual.of(len(units), plan.mechanism)
        if plan.mechanism:
            self.optimizer = PrivateOptimizer(
                self.inner,
                self.parameters,
                noise_multiplier=plan.mechanism.noise_multiplier,
                divisor=plan.divisor,
                noise=randomness.noise(self.noise_rng, coordinates=count_of(self.parameters)),
            )
            if public is not None:
                self.optimizer.before_step = self._add_public
        # an audit's hook: adds its canaries to the units that were drawn, before the noise
        self.on_sum: Callable[[torch.Tensor, GridSum], None] | None = None
        # what every step of a full batch reads: gathered once, since a fresh copy costs more than the arithmetic
        always = source.fixed and recipe.flips != "random"
        sets = [(units, self.batches), *([(public.units, self.public_batches)] if public else [])]
        self.same_rows = {of for of, batches in sets if always and isinstance(batches, FullBatch)}
        self.kept_rows: dict[Units, list[Rows]] = {}
        self.kept_on_grid: TwoClassRows | None = None
        self.step_number = 0
        self.selection = Selection(recipe, head, steps=plan.steps)

    def step(self) -> None:
        """Draw a batch, sum its gradients (clipped and noised where private), move the head."""
        chosen = self.batches.next()
        if self.optimizer is None:
            self.sum_gradients(self.units, chosen, flips=self.batches_rng)
            for parameter in self.parameters:
                parameter.grad /= len(chosen)  # type: ignore[operator]
            self.inner.step()
            self.inner.zero_grad(set_to_none=True)
        else:
            total = self.private_sum(chosen, account=True)
            if self.on_sum is not None:
                self.on_sum(chosen, total)
            self.optimizer.step(total)
        self.step_number += 1
        self.selection.after_step(self.step_number)

    def private_sum(self, chosen: torch.Tensor, *, account: bool = False) -> GridSum:
        """The exact sum over the chosen units of the clipped mean gradient of their images and flips.

        `account`: note each unit's share in `individual`.
        """
        total = GridSum(block_shapes(self.head), clip=self.recipe.max_grad_norm)
        for numbers, squared in self._added(total, chosen):
            if account:
                self.individual.add(numbers, squared)
        return total

    def _added(self, total: GridSum, chosen: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Add the chosen units, and yield their numbers and squared lengths over C^2."""
        smoothing = self.recipe.label_smoothing
        layer = self.head[0]
        if len(self.head) == 1 and isinstance(layer, nn.Linear) and layer.out_features == 2:
            whole = self.units in self.same_rows and len(chosen) == len(self.units)
            on_grid = self.kept_on_grid if whole else None
            if on_grid is None:
                on_grid = TwoClassRows(self._rows(self.units, chosen, self.batches_rng), smoothing=smoothing)
            if whole:
                self.kept_on_grid = on_grid
            yield on_grid.numbers, on_grid.add_to(total, layer)
            return
        for numbers, features, labels in self._rows(self.units, chosen, self.batches_rng):
            # matrix products of several units may round one by where it stands: where noise is secure, each alone
            for one in torch.arange(len(numbers)).split(1 if self.randomness.secure else len(numbers)):
                parts = contributions(self.head, features[one], labels[one], label_smoothing=smoothing)
                yield numbers[one], total.add(parts)

    def sum_gradients(self, units: Units, chosen: torch.Tensor, *, flips: torch.Generator) -> None:
        """Set every .grad to the float32 sum over the chosen units of the mean gradient of their images and flips.

        For what is not private: clipped where it is mixed with private gradients.
        """
        self.head.zero_grad(set_to_none=True)
        for _, features, labels in self._kept_rows(units, chosen, flips):
            gradient_sum(
                self.head,
                features,
                labels,
                max_grad_norm=self.recipe.max_grad_norm if self.plan.mechanism else None,
                label_smoothing=self.recipe.label_smoothing,
            )

    def _kept_rows(self, units: Units, chosen: torch.Tensor, flips: torch.Generator) -> "Iterable[Rows]":
        if units not in self.same_rows:
            return self._rows(units, chosen, flips)
        if units not in self.kept_rows:
            self.kept_rows[units] = list(self._rows(units, chosen, flips))
        return self.kept_rows[units]

    def _rows(self, units: Units, chosen: torch.Tensor, flips: torch.Generator) -> "Iterator[Rows]":
        """Numbers (units,), features (units, images * flips, d) and labels of units with one number of images each."""
        for numbers, positions in units.numbered(chosen):
            flat = positions.flatten()
            variants = self._flips(len(flat), flips)
            features = self.source.rows(flat, variants)
            labels = self.labels[flat.to(self.labels.device)].repeat_interleave(variants.shape[1])
            yield (
                numbers,
                features.view(len(positions), -1, features.shape[-1]),
                labels.view(len(positions), -1),
            )

    def _add_public(self) -> None:
        """Mix the mean public gradient into the noisy private mean, as if both sets were one.

        Post-processing of the noisy sum: (N g + w M h) / (N + w M), with M public images of weight w and their mean
        clipped gradient h. They are clipped as well so that both halves have one objective.
        """
        assert self.public is not None
        assert self.public_batches is not None
        private = [parameter.grad for parameter in self.parameters]
        chosen = self.public_batches.next()
        self.sum_gradients(self.public.units, chosen, flips=self.public_rng)
        share = self.public.weight * len(self.public.units)
        share /= share + self.plan.public_count
        for parameter, noisy in zip(self.parameters, private, strict=True):
            assert parameter.grad is not None
            assert noisy is not None
            parameter.grad = (1 - share) * noisy + share / len(chosen) * parameter.grad

    def _flips(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count, r): which flips of each image enter the step."""
        if self.recipe.flips == "all":
            return torch.arange(FLIPS).expand(count, FLIPS)
        if self.recipe.flips == "random":  # horizontal and vertical, each with probability 0.5
            return torch.randint(FLIPS, (count, 1), generator=generator)
        return torch.zeros(count, 1, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, enough to go on bit for bit; without random states if they are secure."""
        return {
            "plan": asdict(self.plan),
            "step": self.step_number,
            "head": self.head.state_dict(),
            "optimizer": self.inner.state_dict(),
            "left": left_of(self.batches),
            "public_left": left_of(self.public_batches),
            "selection": self.selection.state_dict(),
            "individual": self.individual.state,
            **self.randomness.states(self._streams),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises UserError if its steps were taken under another plan, with other noise say."""
        checkpoint.check_plan(state["plan"], self.plan)
        self.step_number = state["step"]
        self.head.load_state_dict(state["head"])
        self.inner.load_state_dict(state["optimizer"])
        self.randomness.restore(self._streams, state)
        for batches, key in ((self.batches, "left"), (self.public_batches, "public_left")):
            if isinstance(batches, ShuffledBatches):
                batches.left = state[key]
        self.selection.load_state_dict(state["selection"])
        self.individual.state = state["individual"]

    @property
    def _streams(self) -> dict[str, torch.Generator]:
        streams = {
            "batches_rng": self.batches_rng,
            "noise_rng": self.noise_rng,
            "public_rng": self.public_rng,
        }
        return streams | ({"layers_rng": self.source.layers_rng} if self.source.layers_rng else {})


def predict(
    head: nn.Sequential, source: FeatureSource, positions: np.ndarray, *, test_flips: bool
) -> np.ndarray:
    """(k,) probability of malignant; with `test_flips` the mean over the four flips of each patch."""
    flips = torch.arange(FLIPS if test_flips else 1).expand(len(positions), -1)
    with torch.no_grad():
        logits = head(source.rows(torch.from_numpy(positions), flips))
    return logits.softmax(dim=-1)[..., 1].mean(dim=1).double().cpu().numpy()
