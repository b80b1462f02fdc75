"""The networks at the paper's sizes, and what each setting changes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mammo_dp.models.mcgan import Convolution, TransposedConvolution, build_gan, sample, to_range
from tests.conftest import config_of


def shapes(network: nn.Module, *inputs: torch.Tensor) -> list[tuple[int, ...]]:
    """Of what each block puts out, without the batch."""
    found: list[tuple[int, ...]] = []
    hooks = [
        block.register_forward_hook(lambda *call: found.append(tuple(call[2].shape[1:])))
        for block in network.blocks  # type: ignore[union-attr]
    ]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_papers_networks():
    """Counted by hand from the layers that the paper's code has: no biases, no parameters in its instance norm."""
    generator, discriminator = build_gan(config_of("gan=mcgan_published").gan)
    convolutions = 200 * 1024 * 16 + (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64) * 16
    assert parameters(generator) == convolutions + 2 * 50 + 50 * 100 + 100 == 14_424_144
    convolutions = (2 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1024 + 1024) * 36
    assert parameters(discriminator) == convolutions + 2 * 50 + 50 * 128**2 + 128**2 == 25_944_676
    latents, labels = torch.randn(2, 100), torch.tensor([0, 1])
    assert shapes(generator, latents, labels) == [
        (1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (64, 64, 64), (1, 128, 128),
    ]  # fmt: skip
    images = torch.rand(2, 1, 128, 128)
    assert shapes(discriminator, images, labels) == [
        (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (1, 1, 1),
    ]  # fmt: skip
    assert discriminator(images, labels).shape == (2, 1)
    assert discriminator.label(labels).shape == (2, 128 * 128)
    assert generator.label(labels).shape == (2, 100)


def test_the_papers_layers():
    generator, discriminator = build_gan(config_of("gan=mcgan_published").gan)
    first, last = generator.blocks[0][0], generator.blocks[-1]
    assert (first.kernel_size, first.stride, first.padding) == ((4, 4), (1, 1), (0, 0))
    assert (last.kernel_size, last.stride, last.padding) == ((4, 4), (2, 2), (1, 1))
    assert [type(layer).__name__ for layer in discriminator.blocks[0]] == ["Convolution", "LeakyReLU"]
    second = discriminator.blocks[1]
    assert (second[0].kernel_size, second[0].stride, second[0].padding) == ((6, 6), (2, 2), (2, 2))
    assert isinstance(second[1], nn.InstanceNorm2d)
    assert not second[1].affine
    assert second[2].negative_slope == 0.1
    assert discriminator.blocks[-1].padding == (1, 1)
    weights = discriminator.blocks[4][0].weight.detach()
    assert abs(float(weights.std()) - 0.02) < 1e-4
    assert abs(float(weights.mean())) < 1e-4


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize("injection", ["embedding", "auxiliary"])
@pytest.mark.parametrize("kernel", [4, 6, 8])
def test_every_setting_gives_images_and_logits(norm, injection, kernel):
    words = (f"gan.norm={norm}", f"gan.label_injection={injection}", f"gan.discriminator_kernel={kernel}")
    gan = config_of("gan=small", f"gan.generator_kernel={kernel}", *words).gan
    generator, discriminator = build_gan(gan)
    images = generator(torch.randn(3, 100), torch.tensor([0, 1, 1]))
    assert images.shape == (3, 1, 32, 32)
    assert images.abs().max() <= 1
    assert discriminator(images, torch.tensor([0, 1, 1])).shape == (3, 1 if injection == "embedding" else 3)


@pytest.mark.parametrize("injection", ["embedding", "auxiliary"])
def test_how_the_networks_hear_the_class(injection):
    generator, discriminator = build_gan(config_of("gan=small", f"gan.label_injection={injection}").gan)
    latents = torch.randn(1, 100)
    benign, malignant = (generator(latents, torch.tensor([label])) for label in (0, 1))
    assert (benign - malignant).abs().mean() > 1e-3
    same = torch.equal(discriminator(benign, torch.tensor([0])), discriminator(benign, torch.tensor([1])))
    assert same == (injection == "auxiliary")  # which names the class instead of hearing it


def test_images_do_not_meet_unless_the_norm_is_of_the_batch():
    """What clipping image by image rests on. Control: batch norm."""
    for norm, apart in (("instance", True), ("group", True), ("batch", False)):
        _, discriminator = build_gan(config_of("gan=small", f"gan.norm={norm}").gan)
        images, labels = torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 0, 1])
        other = images.clone()
        other[1:] = torch.rand(3, 1, 32, 32)
        same = torch.allclose(discriminator(images, labels)[0], discriminator(other, labels)[0], atol=1e-6)
        assert same == apart


def test_the_seed_gives_the_weights_and_leaves_torch_alone():
    gan = config_of("gan=small").gan
    before = torch.get_rng_state()
    first, second = build_gan(gan)[0], build_gan(gan)[0]
    other = build_gan(gan.model_copy(update={"seed": 1}))[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.blocks[0][0].weight, other.blocks[0][0].weight)


@pytest.mark.parametrize(("side", "stride", "kernel", "padding"), [(8, 2, 6, 2), (4, 1, 6, 1), (8, 2, 4, 1)])
def test_a_convolution_as_a_matrix_product_is_the_convolution(side, stride, kernel, padding):
    ours = Convolution(5, 7, kernel, stride, padding, bias=False)
    check_equal(ours, lambda x, w: functional.conv2d(x, w, stride=stride, padding=padding), side, 5)


@pytest.mark.parametrize(("side", "stride", "kernel", "padding"), [(1, 1, 4, 0), (4, 2, 4, 1), (4, 2, 6, 2)])
def test_a_transposed_convolution_as_a_matrix_product_is_one(side, stride, kernel, padding):
    ours = TransposedConvolution(5, 7, kernel, stride, padding, bias=False)
    check_equal(ours, lambda x, w: functional.conv_transpose2d(x, w, stride=stride, padding=padding), side, 5)


def check_equal(ours: nn.Module, theirs, side: int, channels: int) -> None:
    x = torch.randn(3, channels, side, side, dtype=torch.float64, requires_grad=True)
    ours.double()
    expected = theirs(x, ours.weight)
    out = torch.randn_like(expected)
    found = ours(x)
    assert torch.allclose(found, expected)
    pairs = (torch.autograd.grad(y, (x, ours.weight), out) for y in (found, expected))
    for a, b in zip(*pairs, strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize(("black", "white"), [(-1, 1), (0, 1)])
def test_samples_are_clipped_before_the_cast(black, white):
    """The published images are not: a value beyond white came out black. Control: a cast alone wraps."""
    shares = torch.tensor([-0.15, 0.0, 0.5, 1.0, 1.01])  # of the way from black to white
    values = black + (white - black) * shares
    gan = config_of(f"gan.image_range=[{black},{white}]").gan

    def generator(latents, labels):
        return values.repeat(len(latents), 1, 1, 1)

    images = sample(generator, torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), gan, batch_size=2)
    assert images.shape == (3, 1, 5)
    assert images[0, 0].tolist() == [0, 0, 128, 255, 255]
    assert (shares.numpy() * 255).astype(np.int64).astype(np.uint8).tolist() != images[0, 0].tolist()
    grey = torch.arange(256, dtype=torch.uint8)
    there = to_range(grey, gan)
    assert (float(there[0]), float(there[255])) == pytest.approx((black, white), abs=1e-6)
    back = sample(lambda *_: there.view(1, 1, 16, 16), torch.zeros(1, 1), torch.zeros(1), gan, batch_size=1)
    assert torch.equal(back.flatten(), grey)


def test_the_gain_of_batch_norm_is_dcgans():
    """N(1, 0.02), as Radford et al. 2016; the shift starts at 0."""
    generator, _ = build_gan(config_of("gan=mcgan").gan)
    gains = torch.cat([m.weight.detach() for m in generator.modules() if isinstance(m, nn.BatchNorm2d)])
    assert abs(float(gains.mean()) - 1) < 0.002
    assert abs(float(gains.std()) - 0.02) < 0.002


def test_the_presets_differ_in_what_the_docs_say():
    """docs/gan.md: norm, image range and crop, and the rule that stops a collapse; all else is one."""
    ours, published = (config_of(f"gan={name}").gan.model_dump() for name in ("mcgan", "mcgan_published"))
    differ = {key: (published[key], ours[key]) for key in ours if ours[key] != published[key]}
    assert differ == {
        "name": ("mcgan_published", "mcgan"),
        "norm": ("instance", "batch"),
        "image_range": ([0, 1], [-1, 1]),
        "crop": ("inside", "mirrored"),
        "stop_spread": (0, 0.25),
    }
