"""The loop of a classifier's training: steps, choice of an epoch, checkpoints, resume, progress."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from mammo_dp.artifacts import Output
from mammo_dp.privacy.planning import Plan
from mammo_dp.progress import track
from mammo_dp.training import checkpoint
from mammo_dp.training.selection import Selection


class Trainer(Protocol):
    """One training run, a step at a time."""

    plan: Plan
    device: torch.device
    step_number: int
    selection: Selection

    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def train(
    trainer: Trainer,
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
        saved = checkpoint.load(last, trainer.device)
        trainer.load_state_dict(saved["trainer"])
        output.truncate_log(saved["log_size"])
    else:
        output.truncate_log(0)
    pace = checkpoint.Pace(checkpoint_seconds)
    shown: dict[str, float] = {}

    def note() -> str:
        scores = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        return f"epoch {trainer.step_number // plan.steps_per_epoch} of {plan.epochs}  {scores}"

    remaining = range(trainer.step_number, plan.steps)
    for _ in track(remaining, "training", total=plan.steps, done=trainer.step_number, note=note):
        trainer.step()
        step = trainer.step_number
        if validate is not None and step % plan.steps_per_epoch == 0 and step >= plan.first_eligible_step:
            shown = trainer.selection.consider(*validate())
            output.log(step=step, epoch=step // plan.steps_per_epoch, **shown)
        if step < plan.steps and pace.is_due():
            with pace.saving():
                state = {"trainer": trainer.state_dict(), "log_size": output.log_size()}
                checkpoint.save({**state, "device": trainer.device.type}, last)
