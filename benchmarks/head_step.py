#!/usr/bin/env python
"""Time of one private step of a head: on the grid, in float32, by Opacus hooks and by Opacus ghost clipping.

    python benchmarks/head_step.py        # two minutes on 2 cores

paper: batch 122, 1280 -> 640 -> 2, AdamW. dp_gd: 578 patients with 1,104 images and 4 flips, 1280 -> 2, full batch.
Noise is included, two threads, medians of steps taken in turns; compare the ratios, since the machine may be busy.
Float32 sums and noise are what this project had before its grid: their low bits give membership away. Also: secure
noise, at the sizes of dp_gd and of a head on 32 features.
"""

import statistics
import time
from collections.abc import Callable

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

from mammo_dp.privacy.gradients import TwoClassRows, block_shapes, contributions, gradient_sum
from mammo_dp.privacy.mechanism import GridSum, PrivateOptimizer
from mammo_dp.privacy.sampling import Randomness

BATCH, FEATURES, HIDDEN, STEPS = 122, 1280, 640, 20
SIGMA, C, SMOOTHING = 4.0, 1.0, 0.1
GENERATOR = torch.Generator()
Groups = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # numbers, features and labels of units


def head() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 2))


def adamw(module: nn.Module, **options: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=1e-5, weight_decay=1e-8, **options)  # type: ignore[arg-type]


def optimizer_of(
    model: nn.Sequential, inner: torch.optim.Optimizer, rate: float, *, secure: bool
) -> PrivateOptimizer:
    parameters = list(model.parameters())
    noise = Randomness(secure=secure, seed=0, run="").noise(
        torch.Generator(), coordinates=sum(p.numel() for p in parameters)
    )
    return PrivateOptimizer(inner, parameters, noise_multiplier=SIGMA, divisor=rate * 1104, noise=noise)


def ours(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    model = head()
    optimizer = optimizer_of(model, adamw(model, fused=True), 1 / 9, secure=False)

    def step() -> None:
        total = GridSum(block_shapes(model), clip=C)
        total.add(contributions(model, x[:, None], y[:, None], label_smoothing=SMOOTHING))
        optimizer.step(total)

    return step


def in_float32(
    groups: Groups, model: nn.Sequential, inner: torch.optim.Optimizer, rate: float
) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        for _, x, y in groups:
            gradient_sum(model, x, y, max_grad_norm=C)
        for parameter in model.parameters():
            assert parameter.grad is not None
            noise = torch.normal(0, SIGMA * C, parameter.shape, generator=GENERATOR)
            parameter.grad = (parameter.grad + noise) / (rate * 1104)
        inner.step()

    return step


def patients(features: int) -> Groups:
    """As many images for each patient as in CBIS-DDSM, roughly."""
    torch.manual_seed(0)
    found, first = [], 0
    for images, units in ((1, 148), (2, 376), (3, 16), (4, 28), (6, 6), (14, 4)):
        x = nn.functional.normalize(torch.randn(units, 4 * images, features), dim=-1)
        y = torch.randint(2, (units, 1)).expand(units, 4 * images).contiguous()
        found.append((torch.arange(first, first + units), x, y))
        first += units
    return found


def linear(features: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(features, 2))
    return model, torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)


def dp_gd(groups: Groups, features: int, *, secure: bool) -> Callable[[], None]:
    model, inner = linear(features)
    optimizer = optimizer_of(model, inner, 1.0, secure=secure)
    rows = TwoClassRows(groups, smoothing=0.0)

    def step() -> None:
        total = GridSum(block_shapes(model), clip=C)
        rows.add_to(total, model[0])  # type: ignore[arg-type]
        optimizer.step(total)

    return step


def hooks(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    model = GradSampleModule(head())
    optimizer = DPOptimizer(
        adamw(model, fused=True),
        noise_multiplier=SIGMA,
        max_grad_norm=C,
        expected_batch_size=BATCH,
        generator=torch.Generator(),
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def step() -> None:
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ghost(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    model = GradSampleModuleFastGradientClipping(head(), max_grad_norm=C, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        adamw(model, fused=True),
        noise_multiplier=SIGMA, max_grad_norm=C, expected_batch_size=BATCH, generator=torch.Generator(),
    )  # fmt: skip
    criterion = DPLossFastGradientClipping(model, optimizer, nn.CrossEntropyLoss(label_smoothing=SMOOTHING))

    def step() -> None:
        criterion(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def compare(steps: dict[str, Callable[[], None]], count: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(count + 3):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if number >= 3:  # warm by then
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    for name, seconds in medians.items():
        print(f"{name:<32} {1000 * seconds:8.2f} ms   {seconds / first:6.2f} x the first", flush=True)


def main() -> None:
    torch.set_num_threads(2)
    x, y = torch.randn(BATCH, FEATURES), torch.randint(2, (BATCH,))
    model = head()
    one = [(torch.arange(BATCH), x[:, None], y[:, None])]
    compare(
        {
            "paper, grid": ours(x, y),
            "paper, float32": in_float32(one, model, adamw(model, fused=True), 1 / 9),
            "paper, Opacus ghost": ghost(x, y),
            "paper, Opacus hooks": hooks(x, y),
        },
        20,
    )
    groups = patients(FEATURES)
    compare(
        {
            "dp_gd, float32": in_float32(groups, *linear(FEATURES), 1.0),
            "dp_gd, grid": dp_gd(groups, FEATURES, secure=False),
        },
        100,
    )
    for features in (32, FEATURES):
        few = patients(features)
        compare({f"secure, {2 * features + 2} coordinates": dp_gd(few, features, secure=True)}, 20)


if __name__ == "__main__":
    main()
