"""Clipped sums of per-unit gradients of a head, in closed form.

A unit is what the guarantee protects: an image with its flips, or a patient with all images and flips. Each unit
brings `rows` feature vectors, and its gradient is the mean over them. For a linear layer with inputs a_r and output
gradients g_r, the unit's weight gradient is sum_r g_r a_r^T, whose squared norm is sum_rs (g_r . g_s)(a_r . a_s): the
gradients themselves need not be formed (Goodfellow 2015; Lee and Kifer 2021). One forward and one small backward pass
serve both norm and sum.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mammo_dp.layers import Affine
from mammo_dp.privacy.clipping import clip_factors

TRAINED = (nn.Linear, Affine)
ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Tanh, nn.Identity)  # what may stand between them


def check_units(units: int, tensors: Iterable[torch.Tensor]) -> None:
    """Refuse per-unit tensors whose first dimension is not the number of units.

    Layers that fold windows or tokens into the batch (Swin's early attention) make Opacus' hooks return one gradient
    for each window: clipping then runs without an error and bounds nothing. Raises ValueError.
    """
    for tensor in tensors:
        if tensor.shape[0] != units:
            raise ValueError(
                f"{tensor.shape[0]} per-unit gradients for {units} units: the first dimension is not the unit of "
                "privacy, so clipping would bound nothing; compute them with torch.func instead of hooks"
            )


def gradient_sum(
    head: nn.Sequential,
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    max_grad_norm: float | None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Add to every parameter's .grad the sum over units of the clipped gradient of the unit's mean loss.

    features: (units, rows, d); labels: (units, rows). Without `max_grad_norm` nothing is clipped. No unit at all adds
    zeros. Returns the (units,) norms before clipping; they are private and must not be kept.
    """
    units, rows, _ = features.shape
    if labels.shape != (units, rows):
        raise ValueError(f"{units} x {rows} features, labels of shape {tuple(labels.shape)}")
    inputs, outputs, logits = _forward(head, features)
    classes = logits.shape[-1]
    with torch.no_grad():  # of the cross entropy with smoothed labels, mean over rows
        target = functional.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes
        residual = (logits.softmax(dim=-1) - target) / rows
    output_grads = torch.autograd.grad(logits, outputs, residual) if len(outputs) > 1 else (residual,)
    trained = [layer for layer in head if isinstance(layer, TRAINED)]
    parts = [
        (_AffineGradient if isinstance(layer, Affine) else _LinearGradient).of(a, g)
        for layer, a, g in zip(trained, inputs, output_grads, strict=True)
    ]
    check_units(units, (part.squared_norms for part in parts))
    norms = sum((part.squared_norms for part in parts), torch.zeros(())).sqrt()
    finite = norms.isfinite()
    if not finite.all():  # one NaN would show in every weight: such a unit counts as null
        kept = {"max_grad_norm": max_grad_norm, "label_smoothing": label_smoothing}
        gradient_sum(head, features[finite], labels[finite], **kept)
        return norms
    factors = torch.ones_like(norms)
    if max_grad_norm is not None:
        factors = clip_factors(norms, max_grad_norm)
    for layer, part in zip(trained, parts, strict=True):
        weight, bias = part.weighted_sum(factors)
        _add(layer.weight, weight)
        _add(layer.bias, bias)
    return norms


@dataclass(frozen=True)
class _LinearGradient:
    """Of one linear layer. a: (units, rows, in); g: (units, rows, out), gradients of the outputs."""

    a: torch.Tensor
    g: torch.Tensor
    formed: (
        torch.Tensor | None
    )  # (units, out, in): the gradients themselves, where they are the smaller tensor
    squared_norms: torch.Tensor  # (units,); the bias adds 1 to every inner product of inputs

    @classmethod
    def of(cls, a: torch.Tensor, g: torch.Tensor) -> "_LinearGradient":
        rows, outputs = g.shape[1:]
        if rows == 1:
            return cls(a, g, None, g.square().sum((1, 2)) * (a.square().sum((1, 2)) + 1))
        if outputs < rows:
            formed = g.mT @ a
            norms = torch.linalg.vector_norm(formed.flatten(1), dim=1).square() + g.sum(1).square().sum(1)
            return cls(a, g, formed, norms)
        return cls(a, g, None, ((g @ g.mT) * (a @ a.mT + 1)).sum((1, 2)).clamp(min=0))

    def weighted_sum(self, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of weight (out, in) and bias (out,), each unit times its factor."""
        scaled = self.g * factors[:, None, None]
        flat = scaled.flatten(0, 1)
        if self.formed is not None:
            return (factors @ self.formed.flatten(1)).view(self.formed.shape[1:]), flat.sum(dim=0)
        return flat.T @ self.a.flatten(0, 1), flat.sum(dim=0)


@dataclass(frozen=True)
class _AffineGradient:
    """Of scale and shift, which are small enough to be formed. Both (units, d)."""

    scale: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, a: torch.Tensor, g: torch.Tensor) -> "_AffineGradient":
        return cls((a * g).sum(dim=1), g.sum(dim=1))

    @property
    def squared_norms(self) -> torch.Tensor:
        return self.scale.square().sum(dim=1) + self.shift.square().sum(dim=1)

    def weighted_sum(self, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return factors @ self.scale, factors @ self.shift


def _add(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _forward(
    head: nn.Sequential, features: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Inputs and outputs of each layer that trains, with a graph from the outputs to the logits only."""
    inputs, outputs = [], []
    value = features
    for layer in head:
        if isinstance(layer, TRAINED):
            inputs.append(value.detach())
            weight, bias = layer.weight.detach(), layer.bias.detach()
            value = (
                value * weight + bias if isinstance(layer, Affine) else functional.linear(value, weight, bias)
            )
            if not value.requires_grad:
                value.requires_grad_()
            outputs.append(value)
        elif isinstance(layer, ELEMENTWISE):
            value = layer(value)
        else:  # a layer that mixes units, a norm of the batch say, would void the clipping
            raise TypeError(
                f"no closed form of the gradient of {type(layer).__name__}; a head is made of nn.Linear, Affine and of "
                f"{', '.join(kind.__name__ for kind in ELEMENTWISE)}"
            )
    return inputs, outputs, value
