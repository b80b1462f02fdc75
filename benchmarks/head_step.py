#!/usr/bin/env python
"""Time of one private step of the paper's head: ours, Opacus hooks and Opacus ghost clipping, in one run.

    python benchmarks/head_step.py        # about a minute on 2 cores

Batch 122, 1280 -> 640 -> 2, AdamW, noise included, two threads; median of 20 steps of each, taken in turns. The numbers
to compare are the ratios: the machine may be busy.
"""

import statistics
import time
from collections.abc import Callable

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gradients import gradient_sum
from mammo_dp.privacy.optimizer import private_optimizer

BATCH, FEATURES, HIDDEN, STEPS = 122, 1280, 640, 20
SIGMA, C, SMOOTHING = 4.0, 1.0, 0.1


def head() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 2))


def adamw(module: nn.Module, **options: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=1e-5, weight_decay=1e-8, **options)  # type: ignore[arg-type]


def ours(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    model = head()
    mechanism = Mechanism(1 / 9, SIGMA, 2700)
    optimizer = private_optimizer(
        adamw(model, fused=True), mechanism, max_grad_norm=C, public_count=1104, noise=torch.Generator()
    )

    def step() -> None:
        model.zero_grad(set_to_none=True)
        gradient_sum(model, x[:, None], y[:, None], max_grad_norm=C, label_smoothing=SMOOTHING)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

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


def main() -> None:
    torch.set_num_threads(2)
    x, y = torch.randn(BATCH, FEATURES), torch.randint(2, (BATCH,))
    steps = {"ours": ours(x, y), "Opacus ghost": ghost(x, y), "Opacus hooks": hooks(x, y)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(STEPS + 3):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if number >= 3:  # warm by then
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<13} {1000 * seconds:8.2f} ms   {seconds / medians['ours']:6.1f} x ours")


if __name__ == "__main__":
    main()
