"""Contributions on the grid: exact, independent of order, none longer than C; and the step that releases their sum."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from mammo_dp.errors import UserError
from mammo_dp.privacy.gradients import TwoClassRows
from mammo_dp.privacy.mechanism import (
    GRID_BITS,
    SHORTENED,
    SMOOTHING,
    Dense,
    GridSum,
    Inputs,
    Outer,
    PrivateOptimizer,
    RoundedDense,
    grid_step,
    noise_scale,
)
from mammo_dp.privacy.noise import SeededNoise

C = 0.7


def test_the_grid_is_a_power_of_two_that_follows_from_c():
    for clip in (1e-3, 0.5, 0.7, 1.0, 3.0):
        step = grid_step(clip)
        assert math.log2(step) == int(math.log2(step))
        assert 2 ** (GRID_BITS - 1) < clip / step <= 2**GRID_BITS


def test_noise_covers_the_continuous_noise_and_the_smoothing():
    """s^2 - SMOOTHING^2 is (sigma C / g)^2: what is left of the scale is that of the accounted Gaussian."""
    scale = Fraction(noise_scale(3.0, C))
    exact = (Fraction(3.0) * Fraction(C) / Fraction(grid_step(C))) ** 2
    assert abs(scale**2 - Fraction(SMOOTHING) ** 2 - exact) / exact < Fraction(1, 2**50)
    assert scale**2 > exact * (1 - Fraction(1, 2**51))


def added(values: torch.Tensor, clip: float = C) -> tuple[torch.Tensor, torch.Tensor]:
    total = GridSum([tuple(values.shape[1:])], clip=clip)
    squared = total.add({0: Dense(values)})
    return total.blocks[0], squared


def test_short_contributions_are_rounded_and_long_ones_clipped():
    values = torch.tensor([[0.1, -0.2], [300.0, 400.0]], dtype=torch.float64)
    short, long = (added(values[i : i + 1])[0].double() * grid_step(C) for i in (0, 1))
    assert (short - values[0]).abs().max() <= grid_step(C) / 2
    assert long.norm() == pytest.approx(C * SHORTENED, rel=1e-9)
    assert (long[0] / long[1]).item() == pytest.approx(0.75)


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("clip", [1e-3, 0.7, 5.0])
def test_no_unit_is_longer_than_c_in_exact_arithmetic(scale, clip):
    g = torch.Generator().manual_seed(0)
    for number in range(20):
        values = scale * torch.randn(1, 3, 50, generator=g, dtype=torch.float64) ** (1 + 2 * (number % 2))
        block, squared = added(values, clip)
        exact = sum(int(k) ** 2 for k in block.flatten().tolist())
        assert exact <= (Fraction(clip) / Fraction(grid_step(clip))) ** 2
        assert squared.item() == pytest.approx(exact * (grid_step(clip) / clip) ** 2)


def test_the_last_guard_keeps_c_and_drops_what_is_longer():
    """A vector of length C exactly stays, and one grid step more is null: the stated sensitivity is met."""
    clip = 1.0
    most = int(clip / grid_step(clip))
    for length, kept in ((most, True), (most + 1, False)):
        total = GridSum([(2,)], clip=clip)
        rounded = RoundedDense(torch.tensor([[0.0, float(length)]], dtype=torch.float64), (2,))
        squared = total.add_rounded({0: rounded}, finite=torch.tensor([True]))
        assert total.blocks[0].tolist() == [0, length if kept else 0]
        assert squared.tolist() == [1.0 if kept else 0.0]


def test_a_unit_is_clipped_over_all_its_blocks():
    total = GridSum([(2,), (3,)], clip=C)
    total.add({0: Dense(torch.ones(1, 2)), 1: Dense(torch.ones(1, 3))})
    lengths = [block.double().norm() * grid_step(C) for block in total.blocks]
    assert math.hypot(*lengths) == pytest.approx(C * SHORTENED, rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_unit_that_is_not_finite_counts_as_null(bad):
    values = torch.ones(3, 4)
    values[1, 2] = bad
    assert torch.equal(added(values)[0], added(values[[0, 2]])[0])
    rows, gradients = torch.ones(3, 2, 4), torch.full((3, 2, 2), 0.01)
    rows[1, 0, 1] = bad
    whole, rest = GridSum([(2, 5)], clip=C), GridSum([(2, 5)], clip=C)
    whole.add({0: Outer(gradients, Inputs.of(rows))})
    rest.add({0: Outer(gradients[[0, 2]], Inputs.of(rows[[0, 2]]))})
    assert torch.equal(whole.blocks[0], rest.blocks[0])


@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("length", [0.01, 1.0, 300.0])
def test_products_are_sums_of_outer_products(rows, length):
    """Against formed gradients in double precision, and their norms in exact integers."""
    g = torch.Generator().manual_seed(1)
    a = length * torch.randn(30, rows, 6, generator=g)
    gradients = 0.01 * torch.randn(30, rows, 3, generator=g)
    total = GridSum([(3, 7)], clip=C)
    squared = total.add({0: Outer(gradients, Inputs.of(a))})
    formed = gradients.double().mT @ torch.cat([a, torch.ones(30, rows, 1)], dim=2).double()
    norms = formed.flatten(1).norm(dim=1)
    expected = (formed * (SHORTENED * C / norms).clamp(max=1)[:, None, None]).sum(dim=0)
    assert (total.blocks[0].double() * grid_step(C) - expected).norm() < 1e-4 * C
    for number in range(5):
        alone = GridSum([(3, 7)], clip=C)
        alone.add({0: Outer(gradients[[number]], Inputs.of(a[[number]]))})
        exact = sum(int(k) ** 2 for k in alone.blocks[0].flatten().tolist())
        assert exact <= (Fraction(C) / Fraction(grid_step(C))) ** 2
        assert squared[number].item() == pytest.approx(exact * (grid_step(C) / C) ** 2, rel=1e-9)


def test_rows_that_cancel_do_not_break_the_exactness():
    """Two huge rows whose sum is tiny: what is added up inside a unit stays below 32 C."""
    a = torch.ones(1, 2, 4)
    gradients = torch.tensor([[[1e9], [-1e9 + 64]]])
    total = GridSum([(1, 5)], clip=1e-3)
    squared = total.add({0: Outer(gradients, Inputs.of(a))})
    assert 0 <= squared.item() <= 1
    assert total.blocks[0].abs().max() < 2**53


@pytest.mark.parametrize("units", [1, 127, 300, 1000])
def test_sums_are_exact_and_do_not_depend_on_the_order(units):
    g = torch.Generator().manual_seed(2)
    a, gradients = torch.randn(units, 2, 9, generator=g), torch.randn(units, 2, 4, generator=g)
    dense, order = torch.randn(units, 5, generator=g), torch.randperm(units, generator=g)

    def summed(which: torch.Tensor) -> list[torch.Tensor]:
        total = GridSum([(4, 10), (5,)], clip=C)
        total.add({0: Outer(gradients[which], Inputs.of(a[which])), 1: Dense(dense[which])})
        return total.blocks

    first, second = summed(torch.arange(units)), summed(order)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    one_by_one = [0, 0]
    for number in range(units):
        for block, added_block in enumerate(summed(torch.tensor([number]))):
            one_by_one[block] = one_by_one[block] + added_block
    assert all(torch.equal(x, y) for x, y in zip(first, one_by_one, strict=True))


# --- the step -------------------------------------------------------------------------------------------------------

SIGMA, DIVISOR = 3.0, 100.0


def updates(steps: int = 3, *, gradient: float = 0.0) -> list[torch.Tensor]:
    """What an SGD step of lr 1 moves a parameter of 20,000 entries by, at a constant sum."""
    layer = nn.Linear(20_000, 1, bias=False)
    optimizer = PrivateOptimizer(
        torch.optim.SGD(layer.parameters(), lr=1.0), list(layer.parameters()),
        noise_multiplier=SIGMA, divisor=DIVISOR, noise=SeededNoise(torch.Generator().manual_seed(0)),
    )  # fmt: skip
    moved = []
    for _ in range(steps):
        before = layer.weight.detach().clone()
        total = GridSum([(1, 20_000)], clip=C)
        total.add({0: Dense(torch.full((1, 1, 20_000), gradient))})
        optimizer.step(total)
        moved.append((before - layer.weight.detach()).flatten())
    return moved


def test_noise_has_the_claimed_scale():
    """N(0, (sigma C)^2) over the public expected batch; a KS test tells it from 2/3 and 3/2 of it."""
    noise = torch.cat(updates()) * DIVISOR
    assert noise.std() == pytest.approx(SIGMA * C, rel=0.02)
    assert kstest(noise / (SIGMA * C), "norm").pvalue > 0.001
    for wrong in (2 / 3, 3 / 2):
        assert kstest(noise / (wrong * SIGMA * C), "norm").pvalue < 1e-9


def test_noise_is_fresh_at_every_step():
    first, second, third = updates()
    for a, b in ((first, second), (second, third), (first, third)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_the_sum_is_divided_by_the_public_count():
    given = C / 20_000**0.5 / 2
    with_gradient, without = updates(1, gradient=given)[0], updates(1)[0]
    torch.testing.assert_close(
        with_gradient - without, torch.full((20_000,), given / DIVISOR), rtol=1e-3, atol=1e-7
    )


def test_an_observer_sees_the_exact_sum_and_what_was_released():
    layer = nn.Linear(3, 2)
    seen = []
    optimizer = PrivateOptimizer(
        torch.optim.SGD(layer.parameters(), lr=1.0), list(layer.parameters()),
        noise_multiplier=SIGMA, divisor=DIVISOR, noise=SeededNoise(torch.Generator().manual_seed(0)),
    )  # fmt: skip
    optimizer.observer = lambda total, noisy: seen.append((total.blocks, noisy))
    before = [p.detach().clone() for p in layer.parameters()]
    optimizer.step(GridSum([(2, 4)], clip=C))
    (exact,), (noisy,) = seen[0]
    assert exact.abs().sum() == 0
    assert noisy.dtype == torch.int64
    moved = [b - p.detach() for b, p in zip(before, layer.parameters(), strict=True)]
    released = noisy.double() * (grid_step(C) / DIVISOR)
    torch.testing.assert_close(moved[0].double(), released[:, :-1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved[1].double(), released[:, -1], rtol=1e-4, atol=1e-6)


def test_a_diverged_head_adds_nothing_and_stops():
    """An infinite weight makes NaN of some logits: such a unit is null, none is longer than C, training stops."""
    layer = nn.Linear(4, 2)
    layer.weight.data[1, 0] = math.inf
    features, labels = torch.randn(3, 2, 4), torch.zeros(3, 2, dtype=torch.int64)
    features[0, 0, 0] = 0
    rows = TwoClassRows([(torch.arange(3), features, labels)], smoothing=0.0)
    total = GridSum([(2, 5)], clip=C)
    squared = rows.add_to(total, layer)
    assert squared[0] == 0
    assert (squared <= 1).all()
    assert total.blocks[0].double().norm() * grid_step(C) <= 2 * C
    optimizer = PrivateOptimizer(
        torch.optim.SGD(layer.parameters(), lr=1.0), list(layer.parameters()),
        noise_multiplier=SIGMA, divisor=DIVISOR, noise=SeededNoise(torch.Generator().manual_seed(0)),
    )  # fmt: skip
    with pytest.raises(UserError, match="diverged"):
        optimizer.step(total)
