"""A layer that torch has no name for."""

import torch
from torch import nn


class Affine(nn.Module):
    """(..., d) -> (..., d): each feature times its scale, plus its shift."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.weight + self.bias
