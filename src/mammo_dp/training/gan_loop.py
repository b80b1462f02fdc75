"""The loop of a GAN's training: epochs, checkpoints, resume, progress."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mammo_dp.artifacts import PREVIOUS, Output
from mammo_dp.errors import UserError
from mammo_dp.progress import track
from mammo_dp.training import checkpoint
from mammo_dp.training.gan import Diverged, GanTrainer

CHECKED_EVERY = 20  # steps between two looks at the losses: a look makes a GPU wait


def train(
    trainer: GanTrainer,
    *,
    output: Output,
    checkpoint_seconds: float,
    keep: Callable[[int], dict[str, float]],
    curves: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Run the trainer to the end of its plan, from the last checkpoint where an earlier run was stopped.

    `keep` is called with the number of the epoch every gan.checkpoint_every epochs and after the last: it writes the
    generator, and what it returns is logged beside the losses. `curves` gets what is logged.
    Raises Diverged, with the checkpoint that is kept.
    """
    plan, settings, saver = trainer.plan, trainer.settings, _Saver(trainer, output, checkpoint_seconds)
    saver.restore()
    shown: dict[str, float] = {}
    began, first = time.monotonic(), trainer.step_number

    def note() -> str:
        rate = (trainer.step_number - first) * settings.batch_size / max(time.monotonic() - began, 1e-9)
        losses = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in shown.items())
        return f"epoch {trainer.epoch} of {settings.epochs}  {rate:.0f} images/s  {losses}"

    remaining = range(trainer.step_number, plan.steps)
    try:
        for _ in track(remaining, "training", total=plan.steps, done=trainer.step_number, note=note):
            trainer.step()
            step, kept = trainer.step_number, False
            if trainer.device.type == "cpu" or step % CHECKED_EVERY == 0:
                trainer.check_finite()
            if step % plan.steps_per_epoch == 0:
                shown = trainer.end_epoch()
                row = {"epoch": trainer.epoch, "step": step, **shown}
                if trainer.epoch % settings.checkpoint_every == 0 or step == plan.steps:
                    row |= keep(trainer.epoch)
                    kept = True
                output.log(**row)
                if curves is not None:
                    curves(trainer.epoch, row)
            if step < plan.steps:
                saver.save(kept=kept)
    except Diverged as error:
        raise Diverged(f"{error}; {_advice(trainer, output.folder)}") from None


def log_rows(output: Output) -> Iterator[dict[str, Any]]:
    """The lines of log.jsonl, one an epoch."""
    for line in (output.folder / "log.jsonl").read_text().splitlines():
        yield json.loads(line)


class _Saver:
    """Writes last.pt, keeping the one before it, so that a damaged one costs little."""

    def __init__(self, trainer: GanTrainer, output: Output, seconds: float) -> None:
        self.trainer, self.output, self.pace = trainer, output, checkpoint.Pace(seconds)
        self.last, self.previous = output.folder / "last.pt", output.folder / PREVIOUS

    def restore(self) -> None:
        for path in (self.last, self.previous):
            if not path.is_file():
                continue
            try:
                saved = checkpoint.load(path, self.trainer.device)
            except UserError as error:
                if path == self.last and self.previous.is_file():
                    raise UserError(
                        f"{error}; or delete {path.name} there: the run then goes on from {PREVIOUS}, a little earlier"
                    ) from None
                raise
            self.trainer.load_state_dict(saved["trainer"])
            self.output.truncate_log(saved["log_size"])
            return
        self.output.truncate_log(0)

    def save(self, *, kept: bool) -> None:
        """Save if it is time, or if a generator has just been kept. Never a state whose losses are not finite."""
        if not kept and not self.pace.is_due():
            return
        self.trainer.check_finite()
        with self.pace.saving():
            if self.last.is_file():
                self.last.replace(self.previous)
            state = {"trainer": self.trainer.state_dict(), "log_size": self.output.log_size()}
            checkpoint.save({**state, "device": self.trainer.device.type}, self.last)


def _advice(trainer: GanTrainer, folder: Path) -> str:
    kept = sorted(path.name for path in (folder / "checkpoints").glob("*.safetensors"))
    last = (
        f"the last good generator is checkpoints/{kept[-1]} in its folder"
        if kept
        else "no generator was kept yet"
    )
    return f"{last}; train again with a smaller gan.lr (now {trainer.settings.lr:g}), another gan.norm or gan.seed"
