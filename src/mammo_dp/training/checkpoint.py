"""Checkpoints: tensors and numbers only, written whole or not at all."""

import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mammo_dp.engine.artifacts import LAST, PREVIOUS, Output
from mammo_dp.errors import UserError
from mammo_dp.files import write_atomic
from mammo_dp.training.plans import Plan

if TYPE_CHECKING:
    from mammo_dp.training.trainer import Trainer

SAVING_SHARE = 0.05  # of the time that may go into writing checkpoints


class Pace:
    """When the next checkpoint is due: every `seconds`, less often where writing one takes long."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.took, self.saved_at = seconds, 0.0, time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self.saved_at >= max(self.seconds, self.took / SAVING_SHARE)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around the writing of a checkpoint."""
        began = time.monotonic()
        yield
        self.saved_at = time.monotonic()
        self.took = self.saved_at - began


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state`, which names its kind of device under "device"."""
    content = io.BytesIO()
    torch.save(state, content)
    write_atomic(path, content.getvalue())


def check_plan(saved: dict[str, Any], plan: Plan) -> None:
    """Refuse to resume from steps that were taken under another plan, with other noise say. Raises UserError."""
    if saved != asdict(plan):
        raise UserError(
            "the checkpoint last.pt was written under another plan (noise, steps or N; perhaps by another version of "
            "the accountants): its steps cannot be accounted together with new ones; run again with force=true"
        )


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint written by `save`. Raises UserError if it is damaged or belongs to another kind of device."""
    advice = f"run again with force=true to start {path.parent.name} anew"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many kinds for bytes that are no checkpoint
        raise UserError(
            f"the checkpoint {path.name} cannot be read ({type(error).__name__}); {advice}"
        ) from None
    if saved["device"] != device.type:
        raise UserError(
            f"this run was started on {saved['device']} and its random streams cannot be resumed on {device.type}; use "
            f"runtime.device={saved['device']}, or {advice}"
        )
    return saved


class Saver:
    """Writes last.pt, keeping the one before it, so that a damaged one costs little."""

    def __init__(self, trainer: "Trainer", output: Output, seconds: float) -> None:
        self.trainer, self.output, self.pace = trainer, output, Pace(seconds)
        self.last, self.previous = output.folder / LAST, output.folder / PREVIOUS

    def restore(self) -> None:
        """Bring the trainer to the state of the last checkpoint, if there is one."""
        for path in (self.last, self.previous):
            if not path.is_file():
                continue
            try:
                saved = load(path, self.trainer.device)
            except UserError as error:
                if path == self.last and self.previous.is_file():
                    raise UserError(
                        f"{error}; or delete {path.name} there: the run then resumes from {PREVIOUS}, a little earlier"
                    ) from None
                raise
            self.trainer.load_state_dict(saved["trainer"])
            self.output.truncate_log(saved["log_size"])
            return
        self.output.truncate_log(0)

    def save(self) -> None:
        """Save if it is time, or if the trainer asks for it. Never a state whose losses are not finite."""
        if not self.trainer.save_now and not self.pace.is_due():
            return
        self.trainer.check_finite()
        self.trainer.save_now = False
        with self.pace.saving():
            if self.last.is_file():
                self.last.replace(self.previous)
            state = {"trainer": self.trainer.state_dict(), "log_size": self.output.log_size()}
            save({**state, "device": self.trainer.device.type}, self.last)
