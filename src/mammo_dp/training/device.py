"""Where torch computes."""

import torch

from mammo_dp.config.schema import Runtime
from mammo_dp.errors import UserError


def prepare(runtime: Runtime) -> torch.device:
    """Set the number of threads and return the device; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises UserError if a device that was asked for is not there.
    """
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if runtime.device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[runtime.device]:
        raise UserError(f"runtime.device={runtime.device} is not available here; use runtime.device=auto")
    return torch.device(runtime.device)


def describe(device: torch.device) -> str:
    """For the manifest: the device, its name, and the threads that the bits of a result may depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, {torch.get_num_threads()} threads"
