"""The clipping factor, in one place: the closed form of heads and the gradients of whole networks both use it."""

import torch


def clip_factors(norms: torch.Tensor, max_norm: float) -> torch.Tensor:
    """(units,) factors that bring vectors of such norms to at most `max_norm` each; shorter ones stay as they are."""
    return (max_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
