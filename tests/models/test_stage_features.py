"""Features of every stage: each part against the map that a hook sees, one image at a time."""

import pytest
import timm
import torch
from torch import nn

from mammo_dp.errors import UserError
from mammo_dp.models.backbone import StageFeatures


@pytest.mark.parametrize("name", ["mobilenetv2_050", "swin_tiny_patch4_window7_224"])
def test_parts_are_pooled_maps_of_unit_length(name):
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0).eval()
    stages = StageFeatures(backbone, input_size=224)
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        found = stages(images)
        own = torch.nn.functional.layer_norm(backbone(images), backbone(images).shape[-1:])
    assert found.shape == (2, stages.num_features)
    assert torch.allclose(found[:, -own.shape[1] :], own / own.norm(dim=1, keepdim=True), atol=1e-4)
    maps = []
    layers = backbone.layers if name.startswith("swin") else list(backbone.blocks)
    layers[0].register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        backbone(images)
    first = maps[0].mean(dim=(1, 2) if name.startswith("swin") else (2, 3))
    first = torch.nn.functional.layer_norm(first, first.shape[-1:])
    first = first / first.norm(dim=1, keepdim=True)
    # where the library counts stages by stride, the first block ends the first stage
    assert torch.allclose(found[:, : first.shape[1]], first, atol=1e-4)


def test_an_image_has_the_same_features_in_any_company():
    backbone = StageFeatures(timm.create_model("mobilenetv2_050", num_classes=0).eval(), input_size=64)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(backbone(images)[0], backbone(images[:1])[0], atol=1e-5)


def test_a_backbone_without_stages_is_refused():
    with pytest.raises(UserError, match="features=last"):
        StageFeatures(nn.Linear(2, 2), input_size=8)
