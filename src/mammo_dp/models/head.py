"""The classifier's head: what is trained on the backbone's features."""

import torch
from torch import nn

from mammo_dp.config.schema import Recipe

CLASSES = 2  # benign 0, malignant 1


def build_head(recipe: Recipe, *, features: int, seed: int) -> nn.Sequential:
    """The trainable part: `linear` is Linear(d, 2); `mlp` is the paper's Linear(d, h), LeakyReLU(0.2), Linear(h, 2)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.head == "linear":
            head = nn.Sequential(nn.Linear(features, CLASSES))
        else:
            hidden = recipe.hidden or features // 2
            head = nn.Sequential(nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, CLASSES))
    if recipe.zero_init:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    return head


def class_difference(layer: nn.Linear) -> torch.Tensor:
    """(d + 1,) weights, and last the bias, of malignant less those of benign: all that a score depends on."""
    both = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
    return both[1] - both[0]


def p_malignant(logits: torch.Tensor) -> torch.Tensor:
    """(..., 2) logits -> (...) float64 probability of malignant.

    In float32 every image beyond a difference of 17 between its logits would have the probability 1, and tie.
    """
    return logits.double().softmax(dim=-1)[..., 1]
