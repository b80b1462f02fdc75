"""Guards that are always on: the dimension of the batch, no statistics of a batch, whole steps."""

import pytest
import timm
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.features import encoder
from mammo_dp.privacy import gradients
from mammo_dp.privacy.gradients import check_units, contributions, gradient_sum
from mammo_dp.privacy.mechanism import Inputs
from tests.conftest import config_of


def test_windows_of_swin_are_not_images():
    """Under Opacus' hooks an early attention layer gives a row for each window: it runs, and clips windows."""
    backbone = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2),
        num_classes=2,
    )  # fmt: skip
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name.startswith("layers.0.blocks.0.attn.qkv"))
    hooked = GradSampleModule(backbone.train(), strict=False)
    nn.functional.cross_entropy(hooked(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 0, 1])).backward()
    found = [p.grad_sample for p in hooked.parameters() if p.requires_grad]
    assert found[0].shape[0] == 4 * 16  # images x windows
    with pytest.raises(ValueError, match="64 per-unit gradients for 4 units"):
        check_units(4, found)
    check_units(64, found)


def test_the_guard_is_on_in_every_sum(monkeypatch):
    """A layer that folds rows into the batch is caught, whatever it returns."""
    original = gradients._LinearGradient.of

    def folded(a, g):
        return original(a.flatten(0, 1)[:, None], g.flatten(0, 1)[:, None])

    monkeypatch.setattr(gradients._LinearGradient, "of", staticmethod(folded))
    head = nn.Sequential(nn.Linear(5, 2))
    with pytest.raises(ValueError, match="12 per-unit gradients for 3 units"):
        gradient_sum(head, torch.randn(3, 4, 5), torch.zeros(3, 4, dtype=torch.int64), max_grad_norm=1.0)


def test_the_guard_is_on_in_every_private_sum(monkeypatch):
    original = Inputs.of
    monkeypatch.setattr(
        gradients.Inputs, "of", staticmethod(lambda rows: original(rows.flatten(0, 1)[:, None]))
    )
    monkeypatch.setattr(
        gradients.Outer, "squared_norms", lambda outer: outer.inputs.values.flatten(1).square().sum(dim=1)
    )
    head = nn.Sequential(nn.Linear(5, 2))
    with pytest.raises(ValueError, match="12 per-unit gradients for 3 units"):
        contributions(head, torch.randn(3, 4, 5), torch.zeros(3, 4, dtype=torch.int64))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False), nn.InstanceNorm1d(4)])
def test_layers_with_statistics_are_refused(layer):
    head = nn.Sequential(nn.Linear(5, 4), layer, nn.Linear(4, 2))
    with pytest.raises(TypeError, match=type(layer).__name__):
        gradient_sum(head, torch.randn(3, 1, 5), torch.zeros(3, 1, dtype=torch.int64), max_grad_norm=1.0)


def test_a_backbone_in_train_mode_is_refused():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone.eval()[1].train()
    with pytest.raises(ValueError, match="train mode"):
        encoder(backbone, torch.device("cpu"), precision="float32")


def test_the_backbone_that_stages_use_gives_an_image_the_same_features_in_any_company():
    config = config_of("classifier=swin_micro")
    encode = encoder(build_backbone(config.classifier), torch.device("cpu"), precision="float32")
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(encode(images)[:1], encode(images[:1]), rtol=1e-4, atol=1e-5)
