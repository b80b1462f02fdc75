"""Which parameters of a network train, by the words of classifier.trainable."""

from timm.models import group_parameters
from torch import nn


def set_trained(backbone: nn.Module, head: nn.Module, trainable: str) -> None:
    """Let those parameters have gradients and no other. The head always trains.

    last_stage: the last of timm's coarse groups that holds more than a normalisation, and all behind it (a Swin's
    `layers.3` and `norm`). bias: every parameter that is called so (Bu et al. 2022, BiTFiT).
    """
    backbone.requires_grad_(trainable == "all")
    head.requires_grad_(True)
    if trainable == "last_stage":
        names = _last_stage(backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in names)
    if trainable == "bias":
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[2] == "bias")


def _last_stage(backbone: nn.Module) -> set[str]:
    groups = list(group_parameters(backbone, backbone.group_matcher(coarse=True)).values())  # type: ignore[operator]
    sizes = {name: parameter.ndim for name, parameter in backbone.named_parameters()}
    for first in reversed(range(len(groups))):
        if any(sizes[name] > 1 for name in groups[first]):
            return {name for group in groups[first:] for name in group}
    return set(sizes)
