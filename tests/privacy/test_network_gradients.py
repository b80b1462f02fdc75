"""Clipped sums of a whole network's gradients, against a loop over units, and the guards."""

import pytest
import timm
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.nn import functional

from mammo_dp.models.mcgan import build_gan
from mammo_dp.privacy import network_gradients
from mammo_dp.privacy.mechanism import Dense, GridSum
from mammo_dp.privacy.network_gradients import (
    check_no_batch_statistics,
    clipped_sum,
    image_gradients,
    images_at_once,
    unit_gradients,
)
from tests.conftest import config_of

pytestmark = pytest.mark.slow


def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits.sum(dim=1), target)


def problem(sizes=(1, 3, 2), norm="instance", injection="embedding"):
    torch.manual_seed(0)
    _, network = build_gan(config_of("gan=small", f"gan.norm={norm}", f"gan.label_injection={injection}").gan)
    count = sum(sizes)
    inputs = (torch.randn(count, 1, 32, 32), torch.randint(2, (count,)))
    return network, inputs, torch.rand(count), torch.tensor(sizes)


def by_hand(network, inputs, target, sizes, max_grad_norm):
    """One backward pass for each unit."""
    total = [torch.zeros_like(p) for p in network.parameters()]
    norms, start = [], 0
    for size in sizes.tolist():
        part = slice(start, start + size)
        start += size
        value = sum(
            loss(network(*(x[i : i + 1] for x in inputs)), target[i : i + 1])
            for i in range(part.start, part.stop)
        )
        gradients = torch.autograd.grad(value / size, list(network.parameters()))
        norm = torch.sqrt(sum(g.double().square().sum() for g in gradients))
        norms.append(float(norm))
        factor = min(1.0, max_grad_norm / float(norm))
        total = [t + factor * g for t, g in zip(total, gradients, strict=True)]
    return total, norms


@pytest.mark.parametrize("injection", ["embedding", "auxiliary"])
@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize(("at_once", "alone"), [(1, False), (2, False), (100, False), (2, True)])
def test_equals_a_loop_over_units(norm, injection, at_once, alone):
    network, inputs, target, sizes = problem(norm=norm, injection=injection)
    _, norms = by_hand(network, inputs, target, sizes, 1.0)
    middle = sorted(norms)[1]  # some units are clipped and some are not
    expected, _ = by_hand(network, inputs, target, sizes, middle)
    found = unit_gradient_sum(
        network, loss, inputs, target, sizes, max_grad_norm=middle, at_once=at_once, alone=alone
    )
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def unit_gradient_sum(network, loss, inputs, targets, sizes, *, max_grad_norm, at_once, alone=False):
    means = unit_gradients(network, loss, inputs, targets, sizes, at_once=at_once, alone=alone)
    return clipped_sum(network, means, max_grad_norm=max_grad_norm)


def total_norm(gradients):
    return float(torch.sqrt(sum(g.double().square().sum() for g in gradients)))


def test_one_unit_moves_the_sum_by_at_most_the_norm():
    """A patient of five images among two others. Control: clipped image by image it is more."""
    network, inputs, target, sizes = problem(sizes=(5, 2, 1))
    target = torch.ones(8)  # all pull one way
    c = 1e-3

    def summed(sizes, first=0):
        kept = tuple(x[first:] for x in inputs)
        return unit_gradient_sum(network, loss, kept, target[first:], sizes, max_grad_norm=c, at_once=4)

    whole, without = summed(sizes), summed(sizes[1:], first=5)
    moved = total_norm([a - b for a, b in zip(whole, without, strict=True)])
    assert moved <= c * (1 + 1e-4)
    images = torch.ones(8, dtype=torch.int64)
    moved = total_norm([a - b for a, b in zip(summed(images), summed(images[5:], first=5), strict=True)])
    assert moved > 1.5 * c


def test_no_unit_gives_nothing_and_a_unit_that_is_not_finite_counts_as_null():
    network, inputs, target, sizes = problem()
    empty, nothing = tuple(x[:0] for x in inputs), torch.empty(0, dtype=torch.int64)
    assert list(unit_gradients(network, loss, empty, target[:0], nothing, at_once=4)) == []
    spoilt = (inputs[0].clone(), inputs[1])
    spoilt[0][1] = float("nan")  # in the second unit, of images 1 to 3
    kept = [0, 4, 5]
    sums = []
    for x, t, s in ((spoilt, target, sizes), (tuple(x[kept] for x in inputs), target[kept], sizes[[0, 2]])):
        total = GridSum([tuple(p.shape) for p in network.parameters()], clip=1.0)
        for means in unit_gradients(network, loss, x, t, s, at_once=100, alone=True):
            total.add({number: Dense(mean) for number, mean in enumerate(means)})
        sums.append(total.blocks)
    assert all(torch.equal(a, b) for a, b in zip(*sums, strict=True))


def test_a_wrong_batch_dimension_is_caught(monkeypatch):
    """Per-sample gradients of halves of images, as of Swin's windows: clipping them would bound nothing."""
    network, inputs, target, sizes = problem()
    original = network_gradients.vmap

    def folded(function, **kwargs):
        def run(*arguments):
            found = original(function, **kwargs)(*arguments)
            return {k: g.repeat_interleave(2, dim=0) for k, g in found.items()}

        return run

    monkeypatch.setattr(network_gradients, "vmap", folded)
    with pytest.raises(ValueError, match="12 per-unit gradients for 6 units"):
        unit_gradient_sum(network, loss, inputs, target, sizes, max_grad_norm=1.0, at_once=100)


def test_statistics_of_a_batch_are_refused():
    for layer in (
        nn.BatchNorm2d(3),
        nn.BatchNorm1d(3, affine=False),
        nn.InstanceNorm2d(3, track_running_stats=True),
    ):
        with pytest.raises(ValueError, match=type(layer).__name__):
            check_no_batch_statistics(nn.Sequential(nn.Conv2d(1, 3, 3), layer))
    check_no_batch_statistics(nn.Sequential(nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)))
    check_no_batch_statistics(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).eval())


def swin_t(trained: str = "") -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The paper's backbone with random weights, a batch of eight and its labels."""
    torch.manual_seed(0)
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2).eval()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    return network, torch.randn(8, 3, 224, 224), torch.arange(8) % 2


def cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, label)


def check_against_a_loop(
    network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor
) -> list[torch.Tensor]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = image_gradients(network, cross_entropy, [inputs], labels)
    for number in range(len(labels)):
        one = slice(number, number + 1)
        expected = torch.autograd.grad(cross_entropy(network(inputs[one]), labels[one]), parameters)
        difference = sum(
            float((f[number] - e).double().square().sum()) for f, e in zip(found, expected, strict=True)
        )
        size = sum(float(e.double().square().sum()) for e in expected)
        assert (difference / size) ** 0.5 < 1e-5
    return found


def test_every_parameter_of_a_whole_swin_t():
    network, inputs, labels = swin_t()
    assert sum(p.numel() for p in network.parameters()) > 27.5e6
    check_against_a_loop(network, inputs, labels)


def test_early_attention_alone_where_hooks_would_clip_windows():
    """Its layers fold windows into the batch: hooks give 64 rows an image, and clipping those bounds no image."""
    network, inputs, labels = swin_t("layers.0.blocks.0.attn.qkv")
    found = check_against_a_loop(network, inputs, labels)
    assert [len(g) for g in found] == [8, 8]
    c = 1e-3  # below every norm: each clipped vector has length C
    ours = unit_gradient_sum(
        network,
        cross_entropy,
        [inputs],
        labels,
        torch.ones(8, dtype=torch.int64),
        max_grad_norm=c,
        at_once=8,
    )
    hooked = GradSampleModule(network.train(), strict=False)
    functional.cross_entropy(hooked(inputs), labels).backward()
    windows = [p.grad_sample for p in hooked.parameters() if p.requires_grad]
    assert [len(g) for g in windows] == [8 * 64, 8 * 64]
    image = torch.linalg.vector_norm(torch.cat([g[:64].flatten(1) for g in windows], dim=1), dim=1)
    moved_by_one_image = float((image.clamp(max=c)).sum())
    assert total_norm(ours) <= 8 * c * (1 + 1e-4)
    assert moved_by_one_image > 5 * c  # what hooks would let one image add, of which C was promised


def test_images_at_once_follow_the_memory():
    network, inputs, labels = swin_t()
    few, many = (
        images_at_once(network, cross_entropy, [inputs[:1]], labels[:1], memory_limit=limit)
        for limit in (2.0, 4.0)
    )
    assert images_at_once(network, cross_entropy, [inputs[:1]], labels[:1], memory_limit=1e-6) == 1
    assert few < many <= 4.0 * 2**30 / (2 * 27.5e6 * 4)
    assert 1.8 < many / few < 2.5
