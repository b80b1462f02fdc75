"""Training a head, a step at a time, with or without privacy."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from mammo_dp.config.schema import Recipe
from mammo_dp.data.transforms import FLIPS
from mammo_dp.models.head import p_malignant
from mammo_dp.privacy.gradients import TwoClassRows, block_shapes, contributions, gradient_sum
from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.privacy.sampling import FullBatch, Randomness, batches_of
from mammo_dp.privacy.units import Units
from mammo_dp.training.features import FeatureSource
from mammo_dp.training.plans import Plan
from mammo_dp.training.trainer import ClassifierTrainer

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # numbers of units, their features, their labels


class HeadTrainer(ClassifierTrainer):
    """A run that trains a head on features of a frozen backbone."""

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
        public: Units | None = None,
    ) -> None:
        """`units` hold positions in the source; `labels`: (n,) of 0 and 1 for every position of the source.

        `public`: units whose gradients are added without noise, in the plan's share.
        """
        self.head, self.source = head.to(device), source
        super().__init__(
            head,
            list(self.head.parameters()),
            units,
            plan=plan,
            recipe=recipe,
            randomness=randomness,
            device=device,
        )
        self.labels, self.public = labels.to(device), public
        self.public_rng = self.stream("public")
        self.public_batches = (
            batches_of(len(public), None, recipe.batch_size, self.public_rng) if public is not None else None
        )
        self.shuffled["public_left"] = self.public_batches
        if source.layers_rng is not None:
            self.streams["layers_rng"] = source.layers_rng
        if self.optimizer is not None and public is not None:
            self.optimizer.before_step = self._add_public
        # what every step of a full batch reads: gathered once, since a fresh copy costs more than the arithmetic
        always = source.fixed and recipe.flips != "random"
        sets = [(units, self.batches), *([(public, self.public_batches)] if public else [])]
        self.same_rows = {of for of, batches in sets if always and isinstance(batches, FullBatch)}
        self.kept_rows: dict[Units, list[Rows]] = {}
        self.kept_on_grid: TwoClassRows | None = None

    def mean_gradients(self, chosen: torch.Tensor) -> None:
        self.sum_gradients(self.units, chosen, flips=self.batches_rng)
        for parameter in self.trained:
            parameter.grad /= len(chosen)  # type: ignore[operator]

    def private_sum(self, chosen: torch.Tensor, *, account: bool = False) -> GridSum:
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
            # matrix products of several units may round one by its position: where noise is secure, each alone
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
        private = [parameter.grad for parameter in self.trained]
        chosen = self.public_batches.next()
        self.sum_gradients(self.public, chosen, flips=self.public_rng)
        share = 1 - self.plan.private_share
        for parameter, noisy in zip(self.trained, private, strict=True):
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


def predict(
    head: nn.Sequential, source: FeatureSource, positions: np.ndarray, *, test_flips: bool
) -> np.ndarray:
    """(k,) probability of malignant; with `test_flips` the mean over the four flips of each patch."""
    flips = torch.arange(FLIPS if test_flips else 1).expand(len(positions), -1)
    with torch.no_grad():
        logits = head(source.rows(torch.from_numpy(positions), flips))
    return p_malignant(logits).mean(dim=1).cpu().numpy()
