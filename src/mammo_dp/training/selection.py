"""Which weights of a run are kept: the last, a mean of the iterates, or those of the best epoch on validation."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from mammo_dp.config.schema import Recipe
from mammo_dp.metrics.classification import auprc_benign, cross_entropy

State = dict[str, torch.Tensor]
# of select=ema: De et al. 2022 (App. C) average with decay 0.9999, less at first, so that short runs forget their start
EMA_DECAY, EMA_WARMUP = 0.9999, 9.0


def iterate_weight(select: str, step: int, *, steps: int) -> float:
    """Weight of the iterate of `step`, from 1, in the running mean that is kept: mean += weight * (iterate - mean)."""
    if select == "ema":
        before = step - 1  # weight 1 at the first step: the start has none
        return 1 - min(EMA_DECAY, before / (before + EMA_WARMUP))
    if select == "average":
        return 1 / max(step - steps // 2, 1) if step > steps // 2 else 0.0
    return 1.0


class Selection:
    """Follows a network through its training, for recipe.select."""

    def __init__(self, recipe: Recipe, network: nn.Module, *, steps: int) -> None:
        self.select, self.network, self.steps = recipe.select, network, steps
        self.smoothing: Any = {"label_smoothing": recipe.label_smoothing, "batch_size": recipe.batch_size}
        self.step = 0
        self.mean: State = {}
        if self.select in ("average", "ema"):
            self.mean = {k: torch.zeros_like(v, dtype=torch.float64) for k, v in network.state_dict().items()}
        self.best: State | None = None
        self.best_step, self.best_auprc, self.best_loss = 0, -1.0, math.inf

    def after_step(self, step: int) -> None:
        """Take note of the network after its step number `step`, from 1."""
        self.step = step
        weight = iterate_weight(self.select, step, steps=self.steps)
        if self.mean and weight:
            for key, value in self.network.state_dict().items():
                self.mean[key].lerp_(value.double(), weight)

    def consider(self, malignant: np.ndarray, p_malignant: np.ndarray) -> dict[str, float]:
        """Keep the present network if it has the highest AUPRC (benign) so far; ties by lower loss, as in training."""
        auprc = auprc_benign(malignant, p_malignant)
        loss = cross_entropy(malignant, p_malignant, **self.smoothing)
        if (auprc, -loss) > (self.best_auprc, -self.best_loss):
            self.best = {key: value.clone() for key, value in self.network.state_dict().items()}
            self.best_step, self.best_auprc, self.best_loss = self.step, auprc, loss
        return {"val_auprc_benign": auprc, "val_loss": loss}

    def selected(self) -> tuple[State, int]:
        """The weights to keep, and the step they belong to."""
        if self.mean:
            now = self.network.state_dict()
            return {k: v.to(now[k].dtype) for k, v in self.mean.items()}, self.step
        if self.select == "best_val":
            assert self.best is not None
            return self.best, self.best_step
        return self.network.state_dict(), self.step

    def state_dict(self) -> dict[str, Any]:
        kept = ("step", "mean", "best", "best_step", "best_auprc", "best_loss")
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = next(self.network.parameters()).device
        for name, value in state.items():
            if isinstance(value, dict):
                value = {key: tensor.to(device) for key, tensor in value.items()}
            setattr(self, name, value)
