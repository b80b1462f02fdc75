"""The mechanism: contributions on a public grid, their exact sum, and Gaussian noise on the same grid.

Floating point gives membership away: the low bits of a float32 sum plus float32 noise are those of the sum (Mironov
2012; Haney et al. 2022). Here every unit's contribution is a vector of integers times the grid step g, so that sums
are exact and do not depend on their order, and the noise is an integer vector too. The rounding lies inside the
clipping norm: no contribution is longer than C *after* it, which is checked for each unit in exact arithmetic. So the
accountants get C itself. docs/mechanism.md has the derivation.

Nothing else in this project clips private contributions or adds noise to them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mammo_dp.errors import UserError
from mammo_dp.privacy.noise import NoiseSource

# of an input vector of length one; the grid of a product is the product of both grids
INPUT_BITS = 22
GRADIENT_BITS = 18  # of an output gradient of length C
GRID_BITS = INPUT_BITS + GRADIENT_BITS
# of C, which clipping aims at, so that rounding makes no contribution longer than C
SHORTENED = 1 - 2.0**-14
# sum over a unit's rows of the lengths of what they contribute, over C: keeps float64 sums exact
LARGEST_MASS = 32.0
FORMED_AT_ONCE = 2**25  # entries of formed gradients that are rounded together
UNITS_AT_ONCE = 128  # whose products are summed in float64: 128 * 32 * 2^40 = 2^52
# N(0, s^2 - SMOOTHING^2) convolved with a discrete Gaussian of scale SMOOTHING is one of scale s, up to a factor of
# 1 +- 1e-34 in every probability: discrete noise of scale s is post-processing of continuous noise (docs/mechanism.md)
SMOOTHING = 2.0


def grid_step(clip: float) -> float:
    """g: 2^-GRID_BITS of the next power of two above the clipping norm. Public: it follows from C alone."""
    return 2.0 ** (math.ceil(math.log2(clip)) - GRID_BITS)


def noise_scale(noise_multiplier: float, clip: float) -> float:
    """Scale of the discrete Gaussian in grid steps: sigma C / g, and what smoothing costs (4e-13 of it and less)."""
    scale = math.hypot(noise_multiplier * clip / grid_step(clip), SMOOTHING)
    return scale * (1 + 2.0**-52)  # never rounded down


class Rounded(Protocol):
    """Contributions on the grid, as float64 tensors that hold integers."""

    def squared_norms(self) -> torch.Tensor:
        """(units,) squared lengths in grid steps."""
        ...

    def sum(self, kept: torch.Tensor) -> torch.Tensor:
        """Exact sum over the (units,) kept ones: int64, of the block's shape."""
        ...


class Contribution(Protocol):
    """What units bring to one block of the sum, before clipping."""

    def squared_norms(self) -> torch.Tensor:
        """(units,) squared lengths."""
        ...

    def masses(self) -> torch.Tensor:
        """(units,) sums of the lengths of what is added up inside a unit."""
        ...

    def rounded(self, factors: torch.Tensor, step: float) -> Rounded:
        """Each unit times its factor, on the grid."""
        ...


@dataclass(frozen=True)
class Dense:
    """Contributions that are formed. values: (units, ...) float."""

    values: torch.Tensor

    def _double(self) -> torch.Tensor:
        return _float64(self.values).flatten(1)

    def squared_norms(self) -> torch.Tensor:
        return self._double().square().sum(dim=1)

    def masses(self) -> torch.Tensor:
        return self.squared_norms().sqrt()

    def rounded(self, factors: torch.Tensor, step: float) -> "RoundedDense":
        scaled = torch.nan_to_num(self._double()) * (factors / step)[:, None]
        return RoundedDense(scaled.round_(), tuple(self.values.shape[1:]))


@dataclass(frozen=True)
class RoundedDense:
    values: torch.Tensor  # (units, m)
    shape: tuple[int, ...]

    def squared_norms(self) -> torch.Tensor:
        return self.values.square().sum(dim=1)

    def sum(self, kept: torch.Tensor) -> torch.Tensor:
        parts = [(self.values[part] * kept[part, None]).sum(dim=0).long() for part in _at_once(len(kept))]
        return torch.stack(parts).sum(dim=0).view(self.shape)


@dataclass(frozen=True)
class Inputs:
    """What enters a linear layer, on a grid: one vector a row, with a 1 for the bias, scaled to length 1/2 to 1.

    values: (units, rows, d + 1) integers in float64; scales: (units, rows), the power of two that brings a row back;
    products: (units, rows, rows) inner products of the rows of a unit, without their scales and exact;
    finite: (units,) whether all entries of a unit are finite. The rows of a unit that is not are zero.
    """

    values: torch.Tensor
    scales: torch.Tensor
    products: torch.Tensor
    finite: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> "Inputs":
        """rows: (units, rows, d)."""
        rows = _float64(rows)
        finite = rows.isfinite().all(dim=2).all(dim=1)
        rows = torch.cat(
            [torch.where(finite[:, None, None], rows, 0.0), torch.ones_like(rows[..., :1])], dim=2
        )
        _, exponents = torch.frexp(rows.square().sum(dim=2).sqrt())
        scales = power_of_two(exponents)
        values = (rows * (2.0**INPUT_BITS / scales)[..., None]).round_()
        return cls(values, scales, values @ values.mT * 2.0 ** (-2 * INPUT_BITS), finite)


@dataclass(frozen=True)
class Outer:
    """Contributions sum_r g_r (a_r, 1)^T of a linear layer: never formed.

    gradients: (units, rows, out) of the layer's outputs; inputs: what entered it.
    """

    gradients: torch.Tensor
    inputs: Inputs

    def _scaled(self) -> torch.Tensor:
        return _float64(self.gradients) * self.inputs.scales[..., None]

    def squared_norms(self) -> torch.Tensor:
        return torch.where(self.inputs.finite, _squared(self._scaled(), self.inputs.products), torch.nan)

    def masses(self) -> torch.Tensor:
        return self._scaled().square().sum(dim=2).sqrt().sum(dim=1)

    def rounded(self, factors: torch.Tensor, step: float) -> "RoundedOuter":
        scaled = torch.nan_to_num(self._scaled()) * (factors / (step * 2.0**INPUT_BITS))[:, None, None]
        return RoundedOuter(scaled.round_(), self.inputs)


@dataclass(frozen=True)
class RoundedOuter:
    gradients: torch.Tensor  # (units, rows, out)
    inputs: Inputs

    def squared_norms(self) -> torch.Tensor:
        return _squared(self.gradients, self.inputs.products) * 4.0**INPUT_BITS

    def sum(self, kept: torch.Tensor) -> torch.Tensor:
        parts = [
            (
                (self.gradients[part] * kept[part, None, None]).flatten(0, 1).T
                @ self.inputs.values[part].flatten(0, 1)
            ).long()
            for part in _at_once(len(kept))
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


def _squared(gradients: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """(units,) sum over rows r, s of (g_r . g_s)(a_r . a_s)."""
    if gradients.shape[1] == 1:
        return gradients.square().sum(dim=(1, 2)) * products[:, 0, 0]
    return ((gradients @ gradients.mT) * products).flatten(1).sum(dim=1).clamp(min=0)


class GridSum:
    """The exact sum of one step's clipped contributions, in blocks.

    A block is what is noised together: a layer's weight and bias, or a parameter.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], *, clip: float) -> None:
        self.clip, self.step = clip, grid_step(clip)
        self.shapes = [*shapes]
        self._added: dict[int, torch.Tensor] = {}

    @property
    def blocks(self) -> list[torch.Tensor]:
        """int64 in grid steps. A block that no unit has reached is zero."""
        device = next((block.device for block in self._added.values()), None)
        return [
            self._added[number]
            if number in self._added
            else torch.zeros(shape, dtype=torch.int64, device=device)
            for number, shape in enumerate(self.shapes)
        ]

    def add(self, parts: Mapping[int, Contribution]) -> torch.Tensor:
        """Add units, each clipped to C over all its parts. parts: by number of the block.

        A unit that is not finite counts as null. Returns the (units,) squared lengths of what was added, over C^2:
        they are private.
        """
        total = sum((p.squared_norms() for p in parts.values()), torch.zeros((), dtype=torch.float64))
        masses = sum((p.masses() for p in parts.values()), torch.zeros((), dtype=torch.float64))
        factors = factors_within(total.sqrt(), masses, self.clip)
        rounded = {number: part.rounded(factors, self.step) for number, part in parts.items()}
        return self.add_rounded(rounded, finite=total.isfinite())

    def add_formed(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Add units whose (units, ...) gradients are formed, one for each block, some at a time: float64 is large."""
        units, size = len(gradients[0]), max(1, sum(g[0].numel() for g in gradients))
        at_once = max(1, FORMED_AT_ONCE // size)
        parts = [slice(first, first + at_once) for first in range(0, units, at_once)]
        return torch.cat([self.add({i: Dense(g[part]) for i, g in enumerate(gradients)}) for part in parts])

    def add_rounded(self, rounded: Mapping[int, Rounded], *, finite: torch.Tensor) -> torch.Tensor:
        """The same of contributions that are already on the grid. One longer than C counts as null: the last guard."""
        squared = sum((r.squared_norms() for r in rounded.values()), torch.zeros((), dtype=torch.float64))
        squared = squared * (self.step / self.clip) ** 2
        kept = finite & (squared <= 1)
        for number, part in rounded.items():
            added = part.sum(kept.to(torch.float64))
            before = self._added.get(number)
            self._added[number] = added if before is None else before.add_(added.to(before.device))
        return torch.where(kept, squared, 0.0)

    def released(self, noise: NoiseSource, noise_multiplier: float) -> "list[torch.Tensor]":
        """The noisy blocks, int64 in grid steps. This is all that may leave a private step."""
        scale = noise_scale(noise_multiplier, self.clip)
        return [noise.added(block, scale) for block in self.blocks]


def factors_within(norms: torch.Tensor, masses: torch.Tensor, clip: float) -> torch.Tensor:
    """(units,) factors that bring contributions of such lengths to SHORTENED * C at most; 0 where not finite."""
    factors = torch.minimum(
        SHORTENED * clip / norms.clamp(min=1e-300), LARGEST_MASS * clip / masses.clamp(min=1e-300)
    )
    return torch.nan_to_num(factors.clamp(max=1.0), nan=0.0) * norms.isfinite()


def power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2^e, exact; e from -1000 to 1000."""
    return _POWERS.to(exponents.device)[exponents.long().clamp(-1000, 1000) + 1000]


_POWERS = torch.tensor([2.0**e for e in range(-1000, 1001)], dtype=torch.float64)


def exact_device(device: torch.device) -> torch.device:
    """Where sums and noise are computed: Apple's GPUs have no double precision."""
    return torch.device("cpu") if device.type == "mps" else device


def _float64(values: torch.Tensor) -> torch.Tensor:
    return values.to(exact_device(values.device)).double()


def _at_once(units: int) -> list[slice]:
    return [slice(first, first + UNITS_AT_ONCE) for first in range(0, units, UNITS_AT_ONCE)] or [slice(0, 0)]


class PrivateOptimizer:
    """Releases a step's sum under noise, divides by the public count, and lets the inner optimizer take the step.

    The divisor is sample_rate * public_count, the expected batch of the published training set; the size of the batch
    at hand is private. `before_step` runs between noise and step (public gradients enter there). `observer`, an audit's
    hook, gets the exact sum and the noisy blocks of every step.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        parameters: Sequence[torch.nn.Parameter],
        *,
        noise_multiplier: float,
        divisor: float,
        noise: NoiseSource,
    ) -> None:
        self.inner, self.parameters, self.noise = inner, list(parameters), noise
        self.noise_multiplier, self.divisor = noise_multiplier, divisor
        self.before_step: Any = None
        self.observer: Any = None

    def step(self, total: GridSum) -> None:
        """One step of the inner optimizer on the noisy mean."""
        noisy = total.released(self.noise, self.noise_multiplier)
        if self.observer is not None:
            self.observer(total, noisy)
        for parameter, gradient in zip(self.parameters, self._gradients(noisy, total.step), strict=True):
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(
                gradient.view_as(parameter)
            )
        if self.before_step is not None:
            self.before_step()
        self.inner.step()
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):  # of public numbers
            raise UserError(
                "the private training has diverged: a weight is no longer finite; give recipe.lr a smaller number"
            )
        self.inner.zero_grad(set_to_none=True)

    def _gradients(self, noisy: Sequence[torch.Tensor], step: float) -> list[torch.Tensor]:
        """One for each parameter. A block of rows (w, b) is a weight and a bias."""
        means = [block.double() * (step / self.divisor) for block in noisy]
        if len(means) == len(self.parameters):
            return means
        return [part for mean in means for part in (mean[:, :-1], mean[:, -1])]
