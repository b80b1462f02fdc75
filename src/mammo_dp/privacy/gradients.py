"""Per-unit gradients of a head, in closed form: for a private sum (`contributions`, `TwoClassRows`), or a plain one.

A unit is what the guarantee protects: an image with its flips, or a patient with all images and flips. Each unit
brings `rows` feature vectors, and its gradient is the mean over them. For a linear layer with inputs a_r and output
gradients g_r, the unit's weight gradient is sum_r g_r a_r^T, whose squared norm is sum_rs (g_r . g_s)(a_r . a_s): the
gradients themselves need not be formed (Goodfellow 2015; Lee and Kifer 2021). One forward and one small backward pass
serve both norm and sum.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mammo_dp.layers import Affine
from mammo_dp.privacy.clipping import clip_factors
from mammo_dp.privacy.mechanism import (
    INPUT_BITS,
    UNITS_AT_ONCE,
    Contribution,
    Dense,
    GridSum,
    Inputs,
    Outer,
    factors_within,
)

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
    """Add to every parameter's .grad the sum over units of the (clipped) gradient of the unit's mean loss, in float32.

    For what is not private; private sums are made of `contributions`. features: (units, rows, d); labels: (units,
    rows). Without `max_grad_norm` nothing is clipped. Returns the (units,) norms before clipping.
    """
    found = layer_gradients(head, features, labels, label_smoothing=label_smoothing)
    parts = [
        (_AffineGradient if isinstance(layer, Affine) else _LinearGradient).of(a, g) for layer, a, g in found
    ]
    check_units(len(features), (part.squared_norms for part in parts))
    norms = sum((part.squared_norms for part in parts), torch.zeros(())).sqrt()
    factors = torch.ones_like(norms)
    if max_grad_norm is not None:
        factors = clip_factors(norms, max_grad_norm)
    for (layer, _, _), part in zip(found, parts, strict=True):
        weight, bias = part.weighted_sum(factors)
        _add(layer.weight, weight)  # type: ignore[arg-type]
        _add(layer.bias, bias)  # type: ignore[arg-type]
    return norms


def layer_gradients(
    head: nn.Sequential, features: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float
) -> list[tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    """Each layer that trains, its inputs (units, rows, in), and the gradients of its outputs (units, rows, out)."""
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
    return list(zip(trained, inputs, output_grads, strict=True))


def block_shapes(head: nn.Sequential) -> list[tuple[int, ...]]:
    """Of the blocks of a private sum, one for each layer that trains: rows of a weight and its bias."""
    trained = [layer for layer in head if isinstance(layer, TRAINED)]
    return [
        (len(layer.weight), 2)
        if isinstance(layer, Affine)
        else (len(layer.weight), layer.weight.shape[1] + 1)
        for layer in trained
    ]


def contributions(
    head: nn.Sequential, features: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> dict[int, Contribution]:
    """What each unit brings to the blocks of a private sum: the gradient of its mean loss."""
    parts: dict[int, Contribution] = {}
    found = layer_gradients(head, features, labels, label_smoothing=label_smoothing)
    for number, (layer, a, g) in enumerate(found):
        if isinstance(layer, Affine):
            parts[number] = Dense(torch.stack([(a * g).sum(dim=1), g.sum(dim=1)], dim=2))
        else:
            parts[number] = Outer(g, Inputs.of(a))
    check_units(len(features), (part.squared_norms() for part in parts.values()))
    return parts


class TwoClassRows:
    """Units on the grid for a linear head of two classes, gathered once where they stay the same.

    The gradients of both classes are each other's negative, so one column says both. Logits are exact: inputs and
    weights are integers, and their products stay below 2^53. So no row's bits depend on the rows beside it, which a
    float32 matrix product does not promise.
    """

    def __init__(
        self, groups: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], *, smoothing: float
    ) -> None:
        """groups: numbers (k,), features (k, rows, d) and labels (k, rows) of units with one number of rows each."""
        kept = [(numbers, Inputs.of(features), labels) for numbers, features, labels in groups]
        self.numbers = torch.cat([numbers for numbers, _, _ in kept] or [torch.empty(0, dtype=torch.int64)])
        self.inputs = [inputs for _, inputs, _ in kept]
        sizes = [labels.shape for _, _, labels in kept]
        if not kept:
            return
        self.columns = self.inputs[0].values.shape[2]
        values = torch.cat([inputs.values.flatten(0, 1) for inputs in self.inputs])
        self.values = functional.pad(values, (0, -self.columns % 8))  # aligned rows: a third faster
        self.scales = torch.cat([inputs.scales.flatten() for inputs in self.inputs])
        self.finite = torch.cat([inputs.finite for inputs in self.inputs])
        labelled = torch.cat([labels.flatten() for _, _, labels in kept]).to(self.values)
        self.target = labelled * (1 - smoothing) + smoothing / 2
        each = [torch.full((units * rows,), 1.0 / rows) for units, rows in sizes]
        self.share = torch.cat(each).to(self.values)
        rows_of = torch.cat([torch.full((units,), rows) for units, rows in sizes])
        self.unit_of_row = torch.repeat_interleave(torch.arange(len(rows_of)), rows_of).to(self.values.device)
        ends = rows_of.cumsum(0).tolist()
        self.parts = [
            (0 if first == 0 else ends[first - 1], ends[min(first + UNITS_AT_ONCE, len(ends)) - 1])
            for first in range(0, len(ends), UNITS_AT_ONCE)
        ]

    def add_to(self, total: GridSum, layer: nn.Linear) -> torch.Tensor:
        """Add every unit's clipped gradient. Returns their squared lengths over C^2, in the order of `numbers`."""
        if not self.inputs:
            return torch.empty(0, dtype=torch.float64)
        scaled = (sigmoid(self._logits(layer)) - self.target) * self.share * self.scales
        factors = factors_within(
            (2 * self._squared(scaled)).sqrt(), 2**0.5 * self._masses(scaled), total.clip
        )
        scaled = torch.nan_to_num(scaled)
        rounded = (scaled * (factors / (total.step * 2.0**INPUT_BITS))[self.unit_of_row]).round_()
        return total.add_rounded({0: _RoundedPair(self, rounded)}, finite=self.finite)

    def _logits(self, layer: nn.Linear) -> torch.Tensor:
        weight = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().to(self.values)
        difference = weight[1] - weight[0]
        length = 2.0 ** math.frexp(float(difference.norm()))[1]
        on_grid = (difference * (2.0**WEIGHT_BITS / length)).round_()
        on_grid = functional.pad(on_grid, (0, -self.columns % 8))
        return (self.values @ on_grid) * self.scales * (length * 2.0 ** -(WEIGHT_BITS + INPUT_BITS))

    def _grouped(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(units, rows) values and (units, rows, rows) inner products, for each number of rows."""
        sizes = [inputs.scales.numel() for inputs in self.inputs]
        for part, inputs in zip(rows.split(sizes), self.inputs, strict=True):
            yield part.view(inputs.scales.shape), inputs.products

    def _squared(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([
            ((part[:, :, None] * part[:, None, :]) * products).flatten(1).sum(dim=1).clamp(min=0)
            for part, products in self._grouped(rows)
        ])  # fmt: skip

    def _masses(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.abs().sum(dim=1) for part, _ in self._grouped(rows)])


@dataclass(frozen=True)
class _RoundedPair:
    rows: TwoClassRows
    gradients: torch.Tensor  # (rows,) of the second class

    def squared_norms(self) -> torch.Tensor:
        return self.rows._squared(self.gradients) * (2 * 4.0**INPUT_BITS)

    def sum(self, kept: torch.Tensor) -> torch.Tensor:
        gradients, values = self.gradients * kept[self.rows.unit_of_row], self.rows.values
        parts = [(gradients[first:last] @ values[first:last]).long() for first, last in self.rows.parts]
        second = torch.stack(parts).sum(dim=0)[: self.rows.columns]
        return torch.stack([-second, second])


WEIGHT_BITS = 29  # of a head's weights, on a grid of their own: products with inputs stay below 2^52
ALIGNED, SERIAL = 64, 2**15


def sigmoid(values: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)), bit for bit independent of the position of a value in the tensor.

    Kernels take whole vectors of the processor and the rest one by one, and may split among threads beyond SERIAL
    entries. So each call gets at most SERIAL, filled up to whole vectors.
    """
    parts = []
    for part in values.split(SERIAL):
        filled = torch.cat([part, part.new_zeros(-len(part) % ALIGNED)])
        parts.append(torch.sigmoid(filled)[: len(part)])
    return torch.cat(parts)


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
