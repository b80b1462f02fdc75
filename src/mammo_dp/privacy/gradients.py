"""Clipped sums of per-unit gradients of a head, in closed form.

A unit is what the guarantee protects: an image with its flips. Each unit brings `rows` feature vectors, and its
gradient is the mean over them. For a linear layer with inputs a_r and output gradients g_r, the unit's weight
gradient is sum_r g_r a_r^T, whose squared norm is sum_rs (g_r . g_s)(a_r . a_s): the gradients themselves are never
formed (Goodfellow 2015; Lee and Kifer 2021). One forward and one small backward pass serve both norm and sum.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


def gradient_sum(
    head: nn.Sequential,
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    max_grad_norm: float | None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Set every parameter's .grad to the sum over units of the clipped gradient of the unit's mean loss.

    features: (units, rows, d); labels: (units,). Without `max_grad_norm` nothing is clipped. No unit at all gives
    zeros. Returns the (units,) norms before clipping; they are private and must not be kept.
    """
    units, rows, _ = features.shape
    if labels.shape != (units,):
        raise ValueError(f"{units} units of features, labels of shape {tuple(labels.shape)}")
    inputs, outputs, logits = _forward(head, features)
    losses = functional.cross_entropy(
        logits.flatten(0, 1),
        labels.repeat_interleave(rows),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    output_grads = torch.autograd.grad(losses.sum() / rows, outputs)
    norms = _norms(inputs, output_grads)
    if max_grad_norm is not None:
        factors = (max_grad_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
        output_grads = [grad * factors[:, None, None] for grad in output_grads]
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    for layer, a, g in zip(linear, inputs, output_grads, strict=True):
        flat = g.flatten(0, 1)
        layer.weight.grad = flat.T @ a.flatten(0, 1)
        layer.bias.grad = flat.sum(dim=0)
    return norms


def _forward(
    head: nn.Sequential, features: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Inputs and outputs of each linear layer, with a graph from the outputs to the logits only."""
    inputs, outputs = [], []
    value = features
    for layer in head:
        if isinstance(layer, nn.Linear):
            inputs.append(value.detach())
            value = functional.linear(value, layer.weight.detach(), layer.bias.detach())
            if not value.requires_grad:
                value.requires_grad_()
            outputs.append(value)
        elif not list(layer.parameters()):
            value = layer(value)
        else:
            raise TypeError(
                f"no closed form of the gradient of {type(layer).__name__}; a head is made of nn.Linear"
            )
    return inputs, outputs, value


def _norms(inputs: Sequence[torch.Tensor], output_grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """(units,) norms of the gradient over all layers; the bias adds 1 to every inner product of inputs."""
    squared = torch.zeros(inputs[0].shape[0], dtype=inputs[0].dtype, device=inputs[0].device)
    for a, g in zip(inputs, output_grads, strict=True):
        if a.shape[1] == 1:
            squared = squared + g.square().sum((1, 2)) * (a.square().sum((1, 2)) + 1)
        else:
            squared = squared + ((g @ g.mT) * (a @ a.mT + 1)).sum((1, 2)).clamp(min=0)
    return squared.sqrt()
