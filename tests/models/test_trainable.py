"""Which parameters train."""

import pytest
import timm
from torch import nn

from mammo_dp.models.backbone import set_trained

SMALL_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}


def trained(backbone: str, trainable: str, **arguments) -> tuple[set[str], nn.Module]:
    backbone = timm.create_model(backbone, num_classes=0, **arguments)
    head = nn.Linear(2, 2).requires_grad_(False)
    set_trained(backbone, head, trainable)
    assert all(p.requires_grad for p in head.parameters())
    return {name for name, p in backbone.named_parameters() if p.requires_grad}, backbone


@pytest.mark.parametrize(
    ("backbone", "arguments", "stages"),
    [
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, ("layers.1.", "norm.")),
        ("vit_tiny_patch16_224", {}, ("blocks.11.", "norm.")),
        ("convnext_atto", {}, ("stages.3.", "head.norm.")),
        ("resnet18", {}, ("layer4.",)),
        ("mobilenetv2_100", {}, ("blocks.6.", "conv_head.", "bn2.")),
    ],
)
def test_the_last_stage_and_all_behind_it(backbone, arguments, stages):
    found, backbone = trained(backbone, "last_stage", **arguments)
    assert found == {name for name, _ in backbone.named_parameters() if name.startswith(stages)}


def test_biases_alone_or_everything():
    found, backbone = trained("swin_tiny_patch4_window7_224", "bias", **SMALL_SWIN)
    assert found == {name for name, _ in backbone.named_parameters() if name.endswith(".bias")}
    assert not any("relative_position" in name for name in found)  # tables of biases are weights
    found, backbone = trained("resnet18", "all")
    assert found == {name for name, _ in backbone.named_parameters()}
