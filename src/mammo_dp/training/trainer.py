"""A training run, a step at a time, and the one loop that drives it: steps, epochs, checkpoints, resume, progress."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mammo_dp.config.schema import Recipe
from mammo_dp.engine.artifacts import Output
from mammo_dp.engine.progress import track
from mammo_dp.privacy.individual import Individual
from mammo_dp.privacy.mechanism import GridSum, PrivateOptimizer, exact_device
from mammo_dp.privacy.sampling import Batches, Randomness, ShuffledBatches, batches_of
from mammo_dp.privacy.units import Units
from mammo_dp.training import checkpoint
from mammo_dp.training.optimizers import inner_optimizer
from mammo_dp.training.plans import Plan
from mammo_dp.training.selection import Selection

CHECKED_EVERY = 20  # steps between two checks of the losses on a GPU, which reading them synchronises


class Trainer(ABC):
    """One training run: it draws batches of units and moves parameters, with noise where its plan has a mechanism.

    All randomness comes from streams of its own, which a checkpoint keeps unless they are secure.
    """

    def __init__(
        self,
        units: Units,
        *,
        plan: Plan,
        batch_size: int | None,
        randomness: Randomness,
        device: torch.device,
    ) -> None:
        self.units, self.plan, self.randomness, self.device = units, plan, randomness, device
        self.streams: dict[str, torch.Generator] = {}
        self.batches_rng = self.stream("batches")
        self.noise_rng = self.stream("noise", exact_device(device))
        self.batches = batches_of(
            len(units), plan.mechanism, batch_size, self.batches_rng, secure=randomness.secure
        )
        # what a checkpoint keeps of batches drawn without replacement
        self.shuffled: dict[str, Batches | None] = {"left": self.batches}
        self.individual = Individual.of(len(units), plan.mechanism)
        self.optimizer: PrivateOptimizer | None = None
        # an audit's hook: adds its canaries to the units that were drawn, before the noise
        self.on_sum: Callable[[torch.Tensor, GridSum], None] | None = None
        self.step_number = 0
        self.save_now = False  # set by whoever wrote a file that the next checkpoint has to know of

    def stream(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A stream of random numbers of this run."""
        generator = self.randomness.generator(name, device)
        self.streams[f"{name}_rng"] = generator
        return generator

    def make_private(self, inner: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        """From now on `inner` moves the parameters along noisy sums only."""
        assert self.plan.mechanism is not None
        self.optimizer = PrivateOptimizer(
            inner,
            list(parameters),
            noise_multiplier=self.plan.mechanism.noise_multiplier,
            divisor=self.plan.divisor,
            noise=self.randomness.noise(self.noise_rng, coordinates=sum(p.numel() for p in parameters)),
        )

    @property
    def epoch(self) -> int:
        return self.step_number // self.plan.steps_per_epoch

    def step(self) -> None:
        """Draw a batch and move the parameters."""
        self.update(self.batches.next())
        self.step_number += 1
        self.after_step()

    @abstractmethod
    def update(self, chosen: torch.Tensor) -> None:
        """Move the parameters by the units that were drawn."""

    def after_step(self) -> None:
        """Done once the parameters have moved."""

    def private_step(self, chosen: torch.Tensor) -> None:
        """Move the parameters along the noisy sum over the chosen units, and nothing else of them."""
        assert self.optimizer is not None
        total = self.private_sum(chosen, account=True)
        if self.on_sum is not None:
            self.on_sum(chosen, total)
        self.optimizer.step(total)

    @abstractmethod
    def private_sum(self, chosen: torch.Tensor, *, account: bool = False) -> GridSum:
        """The exact sum over the chosen units of the clipped mean gradient of their images.

        `account`: note each unit's share in `individual`.
        """

    def check_finite(self) -> None:
        """Raise UserError if the run has diverged."""

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps, by name: whatever has a state_dict."""
        return {}

    def numbers(self) -> dict[str, Any]:
        """Further attributes that a checkpoint keeps: numbers and tensors."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, enough to resume bit for bit; without random states if they are secure."""
        return {
            "plan": dataclasses.asdict(self.plan),
            "step": self.step_number,
            "individual": self.individual.state,
            **{
                k: batches.left
                for k, batches in self.shuffled.items()
                if isinstance(batches, ShuffledBatches)
            },
            **{name: part.state_dict() for name, part in self.parts().items()},
            **self.numbers(),
            **self.randomness.states(self.streams),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`. Raises UserError if its steps were taken under another plan, with other noise say."""
        checkpoint.check_plan(state["plan"], self.plan)
        self.step_number = state["step"]
        self.individual.state = state["individual"]
        for name, batches in self.shuffled.items():
            if isinstance(batches, ShuffledBatches):
                batches.left = state[name]
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        for name in self.numbers():
            value = state[name]
            setattr(self, name, value.to(self.device) if isinstance(value, torch.Tensor) else value)
        self.randomness.restore(self.streams, state)


class ClassifierTrainer(Trainer):
    """A run that ends in the weights of a classifier, or of its head, chosen among its steps."""

    def __init__(
        self,
        network: nn.Module,
        parameters: Sequence[nn.Parameter],
        units: Units,
        *,
        plan: Plan,
        recipe: Recipe,
        randomness: Randomness,
        device: torch.device,
    ) -> None:
        """network: what is kept at the end; parameters: those of it that train."""
        super().__init__(units, plan=plan, batch_size=recipe.batch_size, randomness=randomness, device=device)
        self.recipe, self.trained = recipe, list(parameters)
        self.inner = inner_optimizer(self.trained, recipe, plan)
        self.selection = Selection(recipe, network, steps=plan.steps)
        if plan.mechanism is not None:
            self.make_private(self.inner, self.trained)

    def update(self, chosen: torch.Tensor) -> None:
        if self.optimizer is not None:
            self.private_step(chosen)
            return
        self.mean_gradients(chosen)
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)

    @abstractmethod
    def mean_gradients(self, chosen: torch.Tensor) -> None:
        """Set every .grad to the mean over the chosen units; for runs without privacy."""

    def after_step(self) -> None:
        self.selection.after_step(self.step_number)

    def best_val(
        self, validate: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> Callable[[int], dict[str, float]]:
        """For `train`: after each eligible epoch, keep the weights if they are the best so far.

        `validate` gives labels and scores of the validation images.
        """

        def after_epoch(epoch: int) -> dict[str, float]:
            eligible = self.step_number >= self.plan.first_eligible_step
            return self.selection.consider(*validate()) if eligible else {}

        return after_epoch

    def parts(self) -> dict[str, Any]:
        return {"network": self.selection.network, "optimizer": self.inner, "selection": self.selection}


def train(
    trainer: Trainer,
    *,
    output: Output,
    checkpoint_seconds: float,
    after_epoch: Callable[[int], dict[str, float]] | None,
) -> None:
    """Run the trainer to the end of its plan, from the last checkpoint where an earlier run was stopped.

    `after_epoch` gets the number of the epoch that has just ended; what it returns, if anything, is logged and shown.
    """
    plan = trainer.plan
    saver = checkpoint.Saver(trainer, output, checkpoint_seconds)
    saver.restore()
    shown: dict[str, float] = {}

    def note() -> str:
        numbers = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in shown.items())
        return f"epoch {trainer.epoch} of {plan.epochs}  {numbers}"

    remaining = range(trainer.step_number, plan.steps)
    for _ in track(remaining, "training", total=plan.steps, done=trainer.step_number, note=note):
        trainer.step()
        step = trainer.step_number
        if trainer.device.type == "cpu" or step % CHECKED_EVERY == 0:
            trainer.check_finite()
        row = (
            after_epoch(trainer.epoch) if after_epoch is not None and step % plan.steps_per_epoch == 0 else {}
        )
        if row:
            shown = row
            output.log(epoch=trainer.epoch, step=step, **row)
        if step < plan.steps:
            saver.save()
