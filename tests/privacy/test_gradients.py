"""The closed form against autograd, unit by unit, and the sensitivity of the sum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mammo_dp.layers import Affine
from mammo_dp.privacy.gradients import TwoClassRows, block_shapes, contributions, gradient_sum, sigmoid
from mammo_dp.privacy.mechanism import GridSum

KINDS = ["linear", "mlp", "affine", "affine mlp"]  # affine: the backbone's last scale and shift train too


def make_head(kind: str, d: int = 12) -> nn.Sequential:
    torch.manual_seed(0)
    if kind.startswith("affine"):
        affine = Affine(d).double()
        nn.init.normal_(affine.weight)
        nn.init.normal_(affine.bias)
        return nn.Sequential(affine, *make_head(kind.removeprefix("affine ").replace("affine", "linear"), d))
    if kind == "linear":
        return nn.Sequential(nn.Linear(d, 2)).double()
    return nn.Sequential(nn.Linear(d, 7), nn.LeakyReLU(0.2), nn.Linear(7, 2)).double()


def one_by_one(head, features, labels, *, smoothing=0.0) -> torch.Tensor:
    """(units, parameters): each unit's gradient by plain autograd, as a reference."""
    rows = []
    for x, y in zip(features, labels, strict=True):
        head.zero_grad()
        loss = functional.cross_entropy(head(x), y, label_smoothing=smoothing)
        loss.backward()
        rows.append(torch.cat([p.grad.flatten() for p in head.parameters()]))
    return torch.stack(rows)


def summed(head, features, labels, **kwargs) -> torch.Tensor:
    head.zero_grad()
    gradient_sum(head, features, labels, **{"max_grad_norm": None, **kwargs})
    return torch.cat([p.grad.flatten() for p in head.parameters()])


def batch(units: int, rows: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(units, rows, 12, generator=g, dtype=torch.float64)
    return features, torch.randint(
        2, (units, rows), generator=g
    )  # the images of a patient may differ in label


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 4, 9])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("norm", [None, 0.3])
def test_closed_form_equals_autograd(kind, rows, smoothing, norm):
    head, (features, labels) = make_head(kind), batch(9, rows)
    each = one_by_one(head, features, labels, smoothing=smoothing)
    head.zero_grad()
    norms = gradient_sum(head, features, labels, max_grad_norm=norm, label_smoothing=smoothing)
    torch.testing.assert_close(norms, each.norm(dim=1))
    factors = torch.ones(9) if norm is None else (norm / each.norm(dim=1)).clamp(max=1)
    ours = torch.cat([p.grad.flatten() for p in head.parameters()])
    torch.testing.assert_close(ours, (each * factors[:, None].double()).sum(0))
    assert norm is None or (each.norm(dim=1) > norm).any()  # the clipping was at work


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.sampled_from([1, 4]),
    norm=st.floats(0.01, 5),
    scale=st.floats(0.1, 1000),
    seed=st.integers(0, 10**6),
    gone=st.integers(0, 5),
)
def test_one_unit_moves_the_sum_by_at_most_c(kind, rows, norm, scale, seed, gone):
    head = make_head(kind)
    features, labels = batch(6, rows, seed)
    features[gone] *= scale
    kept = [i for i in range(6) if i != gone]
    moved = summed(head, features, labels, max_grad_norm=norm) - summed(
        head, features[kept], labels[kept], max_grad_norm=norm
    )
    assert moved.norm() <= norm * (1 + 1e-9)


def test_without_clipping_a_unit_moves_the_sum_by_more():
    """Negative control of the test above."""
    head, (features, labels) = make_head("linear"), batch(6, 4)
    features[2] *= 1000
    kept = [0, 1, 3, 4, 5]
    moved = summed(head, features, labels) - summed(head, features[kept], labels[kept])
    assert moved.norm() > 10


def test_clipping_each_flip_is_not_clipping_the_image():
    """Negative control: flips taken as units of their own move the sum by more than C."""
    head, (features, labels) = make_head("linear"), batch(1, 1)
    flips = features.expand(1, 4, 12) * 50
    whole = summed(head, flips, labels.expand(1, 4), max_grad_norm=1.0)
    apart = summed(head, flips.transpose(0, 1), labels.expand(1, 4).T, max_grad_norm=1.0)
    assert whole.norm() <= 1 + 1e-9 < apart.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_no_unit_gives_zeros(kind):
    head = make_head(kind)
    gradient = summed(
        head,
        torch.zeros(0, 1, 12, dtype=torch.float64),
        torch.zeros(0, 1, dtype=torch.int64),
        max_grad_norm=1.0,
    )
    assert gradient.abs().sum() == 0


def test_layers_without_a_closed_form_are_refused():
    head = nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    with pytest.raises(TypeError, match="BatchNorm1d"):
        gradient_sum(head, *batch(3, 1), max_grad_norm=1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_without_a_finite_gradient_counts_as_null(kind, bad):
    """One NaN would show in every weight that is released."""
    head, (features, labels) = make_head(kind), batch(5, 4)
    kept = [0, 1, 3, 4]
    features[2, 1, 3] = bad
    spoilt, rest = on_grid(head, features, labels), on_grid(head, features[kept], labels[kept])
    assert all(torch.equal(a, b) for a, b in zip(spoilt.blocks, rest.blocks, strict=True))


def on_grid(head: nn.Sequential, features: torch.Tensor, labels: torch.Tensor) -> GridSum:
    total = GridSum(block_shapes(head), clip=1.0)
    for one in range(len(features)):
        total.add(contributions(head, features[[one]], labels[[one]]))
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 4])
def test_private_sums_are_those_of_float32_on_the_grid(kind, rows):
    head, (features, labels) = make_head(kind), batch(30, rows)
    expected = summed(head, features, labels, max_grad_norm=1.0)
    total = on_grid(head, features, labels)
    found = [part.flatten() for block in total.blocks for part in (block[:, :-1], block[:, -1])]
    difference = torch.cat(found).double() * total.step - expected
    assert difference.norm() <= 30 * 2e-4  # of C for each unit


def test_the_rows_of_a_linear_head_give_the_same_contributions():
    """Exact logits and one column for both classes, against the general way and in any order."""
    head, (features, labels) = make_head("linear"), batch(30, 4)
    numbers = torch.arange(30)
    expected = on_grid(head, features, labels)
    for order in (numbers, numbers.flip(0), numbers[7:]):
        sizes = order[: len(order) // 2], order[len(order) // 2 :]
        rows = TwoClassRows(
            [(part, features[part], labels[part]) for part in sizes if len(part)], smoothing=0.0
        )
        total = GridSum(block_shapes(head), clip=1.0)
        squared = rows.add_to(total, head[0])
        assert rows.numbers.tolist() == order.tolist()
        assert (squared <= 1).all()
        if len(order) == 30:
            difference = (total.blocks[0] - expected.blocks[0]).double() * total.step
            assert difference.norm() < 30 * 2e-4
            first = total.blocks[0]
    missing = GridSum(block_shapes(head), clip=1.0)
    TwoClassRows([(numbers[:7], features[:7], labels[:7])], smoothing=0.0).add_to(missing, head[0])
    assert torch.equal(first, total.blocks[0] + missing.blocks[0])  # exactly additive


def test_a_sigmoid_does_not_depend_on_where_a_value_stands():
    values = torch.randn(70_001, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    whole = sigmoid(values)
    torch.testing.assert_close(whole, torch.sigmoid(values), rtol=1e-15, atol=0)
    for first in (1, 3, 64, 32_767, 69_990):
        assert torch.equal(sigmoid(values[first:]), whole[first:])
