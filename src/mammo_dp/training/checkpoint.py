"""Checkpoints: tensors and numbers only, written whole or not at all."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mammo_dp.errors import UserError
from mammo_dp.files import write_atomic
from mammo_dp.privacy.planning import Plan


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state`, which names its kind of device under "device"."""
    content = io.BytesIO()
    torch.save(state, content)
    write_atomic(path, content.getvalue())


def check_plan(saved: dict[str, Any], plan: Plan) -> None:
    """Refuse to go on from steps that were taken under another plan, with other noise say. Raises UserError."""
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
            f"this run was started on {saved['device']} and its random streams cannot go on on {device.type}; use "
            f"runtime.device={saved['device']}, or {advice}"
        )
    return saved
