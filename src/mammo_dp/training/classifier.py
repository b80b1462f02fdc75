"""Training a head: the plan that couples sampling, clipping and noise, the loop, its checkpoints and its resume."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mammo_dp.artifacts import Cache, Output, write_atomic
from mammo_dp.config import Config, Recipe
from mammo_dp.data.transforms import FLIPS
from mammo_dp.errors import UserError
from mammo_dp.metrics.classification import auprc_benign, cross_entropy
from mammo_dp.privacy.accounting import Mechanism, calibrate, first_step_at_least
from mammo_dp.privacy.gradients import gradient_sum
from mammo_dp.privacy.optimizer import private_optimizer
from mammo_dp.privacy.sampling import FullBatch, PoissonBatches, ShuffledBatches, seeded_generator
from mammo_dp.progress import track
from mammo_dp.training.features import FeatureSource

ELIGIBLE = 0.75  # of the target epsilon, before which the paper considers no epoch; its 1.05 is never reached


@dataclass(frozen=True)
class Plan:
    """Everything that fixes the guarantee, decided before the first step."""

    steps: int
    steps_per_epoch: int
    mechanism: Mechanism | None  # None: not private
    first_eligible_step: int  # of an epoch that best_val may choose
    public_count: int  # None of the private sizes enters a private run


def make_plan(config: Config, *, records: int, cache: Cache) -> Plan:
    """The plan of a run; `records`, the true size of the training set, is used only where nothing is private."""
    recipe, privacy = config.recipe, config.privacy
    count = config.public_count if privacy.is_private else records
    assert count is not None  # Config refuses private runs without one
    per_epoch = 1 if recipe.batch_size is None else math.ceil(count / recipe.batch_size)
    steps = recipe.epochs * per_epoch
    if not privacy.is_private:
        return Plan(steps, per_epoch, None, first_eligible_step=0, public_count=count)
    mechanism = calibrate(
        target=privacy.epsilon,
        delta=privacy.delta,
        sample_rate=1 / per_epoch,
        steps=steps,
        accountant=privacy.accountant,
        cache=cache,
    )
    first = 0
    if recipe.select == "best_val":
        first = first_step_at_least(
            ELIGIBLE,
            mechanism,
            target=privacy.epsilon,
            delta=privacy.delta,
            accountant=privacy.accountant,
            every=per_epoch,
            cache=cache,
        )
    return Plan(steps, per_epoch, mechanism, first_eligible_step=first, public_count=count)


@dataclass
class Best:
    """The best epoch so far: highest AUPRC (benign) on validation, ties by lower loss."""

    auprc: float = -1.0
    loss: float = math.inf
    step: int = 0
    state: dict[str, torch.Tensor] | None = None


class HeadTrainer:
    """One training run of a head, a step at a time. All its randomness comes from two saved generators."""

    def __init__(
        self,
        head: nn.Sequential,
        source: FeatureSource,
        positions: np.ndarray,
        labels: torch.Tensor,
        *,
        plan: Plan,
        recipe: Recipe,
        seed: int,
        run: str,
        device: torch.device,
    ) -> None:
        """`positions`: (n,) of the training patches in the source; `labels`: (n,) of 0 and 1.

        `run` identifies data and settings. The streams are derived from it and the seed: two runs that shared their
        noise at different scales, or on two versions of the data, could be subtracted until only private data is left.
        """
        self.head, self.source = head.to(device), source
        self.positions, self.labels = torch.from_numpy(positions), labels.to(device)
        self.plan, self.recipe = plan, recipe
        self.batches_rng = seeded_generator(seed, run, "batches")
        self.noise_rng = seeded_generator(seed, run, "noise", device)
        self.batches = self._batches()
        self.inner = _inner_optimizer(head, recipe)
        self.optimizer = (
            private_optimizer(
                self.inner,
                plan.mechanism,
                max_grad_norm=recipe.max_grad_norm,
                public_count=plan.public_count,
                noise=self.noise_rng,
            )
            if plan.mechanism
            else self.inner
        )
        self.step_number = 0
        self.average: dict[str, torch.Tensor] = {
            k: torch.zeros_like(v, dtype=torch.float64) for k, v in head.state_dict().items()
        }
        self.averaged = 0
        self.best = Best()

    def _batches(self) -> PoissonBatches | FullBatch | ShuffledBatches:
        records = len(self.positions)
        if self.plan.mechanism is not None and not self.plan.mechanism.is_full_batch:
            return PoissonBatches(records, self.plan.mechanism.sample_rate, self.batches_rng)
        if self.recipe.batch_size is None or self.plan.mechanism is not None:
            return FullBatch(records)
        none_left = torch.empty(0, dtype=torch.int64)
        return ShuffledBatches(records, self.recipe.batch_size, self.batches_rng, none_left)

    def step(self) -> None:
        """Draw a batch, sum its clipped gradients, add noise, move the head."""
        chosen = self.batches.next()
        features = self.source.rows(self.positions[chosen], self._flips(len(chosen)))
        gradient_sum(
            self.head,
            features,
            self.labels[chosen.to(self.labels.device)],
            max_grad_norm=self.recipe.max_grad_norm if self.plan.mechanism else None,
            label_smoothing=self.recipe.label_smoothing,
        )
        if self.plan.mechanism is None:
            for parameter in self.head.parameters():
                parameter.grad /= len(chosen)  # type: ignore[operator]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        if self.recipe.select == "average" and self.step_number > self.plan.steps // 2:
            self.averaged += 1
            for key, value in self.head.state_dict().items():
                self.average[key] += value

    def _flips(self, count: int) -> torch.Tensor:
        """(count, r): which flips of each image enter the step."""
        if self.recipe.flips == "all":
            return torch.arange(FLIPS).expand(count, FLIPS)
        if self.recipe.flips == "random":  # horizontal and vertical, each with probability 0.5
            return torch.randint(FLIPS, (count, 1), generator=self.batches_rng)
        return torch.zeros(count, 1, dtype=torch.int64)

    def consider(self, malignant: np.ndarray, p_malignant: np.ndarray) -> dict[str, float]:
        """Score the present head on validation and keep it if it is the best so far."""
        auprc, loss = auprc_benign(malignant, p_malignant), cross_entropy(malignant, p_malignant)
        if (auprc, -loss) > (self.best.auprc, -self.best.loss):
            state = {key: value.clone() for key, value in self.head.state_dict().items()}
            self.best = Best(auprc, loss, self.step_number, state)
        return {"val_auprc_benign": auprc, "val_loss": loss}

    def selected(self) -> tuple[dict[str, torch.Tensor], int]:
        """The weights that the recipe selects, and the step they belong to."""
        if self.recipe.select == "average":
            mean = {key: (total / self.averaged).float() for key, total in self.average.items()}
            return mean, self.step_number
        if self.recipe.select == "best_val":
            assert self.best.state is not None
            return self.best.state, self.best.step
        return self.head.state_dict(), self.step_number

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, enough to go on bit for bit."""
        return {
            "step": self.step_number,
            "head": self.head.state_dict(),
            "optimizer": self.inner.state_dict(),
            "batches_rng": self.batches_rng.get_state(),
            "noise_rng": self.noise_rng.get_state(),
            "left": self.batches.left if isinstance(self.batches, ShuffledBatches) else torch.empty(0),
            "average": self.average,
            "averaged": self.averaged,
            "best": self.best.__dict__,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_number = state["step"]
        self.head.load_state_dict(state["head"])
        self.inner.load_state_dict(state["optimizer"])
        self.batches_rng.set_state(state["batches_rng"])
        self.noise_rng.set_state(state["noise_rng"])
        if isinstance(self.batches, ShuffledBatches):
            self.batches.left = state["left"]
        device = next(self.head.parameters()).device
        self.average = {key: total.to(device) for key, total in state["average"].items()}
        self.averaged = state["averaged"]
        self.best = Best(**state["best"])


def train(
    trainer: HeadTrainer,
    *,
    output: Output,
    checkpoint_seconds: float,
    validate: Callable[[], tuple[np.ndarray, np.ndarray]] | None,
) -> None:
    """Run the trainer to the end of its plan, from `last.pt` where an earlier run was stopped.

    `validate` gives labels and scores of the validation set; it is called after each eligible epoch.
    """
    plan, last = trainer.plan, output.folder / "last.pt"
    if last.is_file():
        saved = _load(last, trainer.noise_rng.device)
        trainer.load_state_dict(saved["trainer"])
        output.truncate_log(saved["log_size"])
    else:
        output.truncate_log(0)
    saved_at = time.monotonic()
    remaining = range(trainer.step_number, plan.steps)
    for _ in track(remaining, "training", total=plan.steps, done=trainer.step_number):
        trainer.step()
        step = trainer.step_number
        if validate is not None and step % plan.steps_per_epoch == 0 and step >= plan.first_eligible_step:
            scores = trainer.consider(*validate())
            output.log(step=step, epoch=step // plan.steps_per_epoch, **scores)
        if time.monotonic() - saved_at >= checkpoint_seconds and step < plan.steps:
            device = trainer.noise_rng.device.type
            _save({"trainer": trainer.state_dict(), "log_size": output.log_size(), "device": device}, last)
            saved_at = time.monotonic()


def predict(
    head: nn.Sequential, source: FeatureSource, positions: np.ndarray, *, test_flips: bool
) -> np.ndarray:
    """(k,) probability of malignant; with `test_flips` the mean over the four flips of each patch."""
    flips = torch.arange(FLIPS if test_flips else 1).expand(len(positions), -1)
    with torch.no_grad():
        logits = head(source.rows(torch.from_numpy(positions), flips))
    return logits.softmax(dim=-1)[..., 1].mean(dim=1).double().cpu().numpy()


def _inner_optimizer(head: nn.Sequential, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        head.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def _save(state: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    content = io.BytesIO()
    torch.save(state, content)
    write_atomic(path, content.getvalue())


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint written by `_save`. Raises UserError if it is damaged or belongs to another kind of device."""
    advice = f"run again with force=true to start {path.parent.name} anew"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many kinds for bytes that are no checkpoint
        raise UserError(f"the checkpoint last.pt cannot be read ({type(error).__name__}); {advice}") from None
    if saved["device"] != device.type:
        raise UserError(
            f"this run was started on {saved['device']} and its random streams cannot go on on {device.type}; use "
            f"runtime.device={saved['device']}, or {advice}"
        )
    return saved
