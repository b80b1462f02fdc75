"""The backbone: built from timm, weights loaded strictly, its last normalisation taken out, what of it trains."""

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from timm.models import group_parameters
from torch import nn
from torch.nn import functional

from mammo_dp.config.schema import TORCHVISION, Classifier
from mammo_dp.errors import UserError
from mammo_dp.layers import Affine
from mammo_dp.models import download
from mammo_dp.models.weights import load_weights

HUB_FILE = "model.safetensors"
LAST_NORMS = ("norm", "head.norm", "fc_norm")  # timm's names


def build_backbone(settings: Classifier, trained: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
    """The backbone without its classification layer, frozen, in eval mode: (n, 3, s, s) -> (n, d) pooled features.

    `trained`: the weights of a backbone that was trained here, instead of those that the settings name.
    Raises UserError if timm does not know the model or the weights are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.init_seed)
        backbone = _create(settings)
    if trained is not None:
        backbone.load_state_dict(dict(trained), strict=True)
    elif settings.weights != "none":
        load_weights(backbone, settings.weights_file or _downloaded(settings), name=settings.backbone)
    backbone = backbone.eval().requires_grad_(False)
    return (
        backbone
        if settings.features == "last"
        else StageFeatures(backbone, input_size=settings.input_size).eval()
    )


def feature_size(backbone: nn.Module) -> int:
    """Length d of the backbone's feature vector."""
    return int(backbone.num_features)  # type: ignore[arg-type]


def take_norm(backbone: nn.Module, settings: Classifier) -> Affine:
    """Take scale and shift out of the backbone's last normalisation: a layer that gives its features back.

    Mean pooling and an affine map of each feature commute, so this layer on cached features is the same function, and
    trains the same, as the normalisation inside the backbone. Raises UserError where that is not so.
    """
    norm = next((m for name in LAST_NORMS if isinstance(m := _submodule(backbone, name), nn.LayerNorm)), None)
    images = torch.rand(
        2, 3, settings.input_size, settings.input_size, generator=torch.Generator().manual_seed(0)
    )
    if norm is not None and norm.elementwise_affine and norm.bias is not None:
        with torch.no_grad():
            before = backbone(images)
            affine = Affine(feature_size(backbone))
            if affine.weight.shape == norm.weight.shape:
                affine.load_state_dict(norm.state_dict())
                norm.weight.fill_(1.0)
                norm.bias.zero_()
                if torch.allclose(
                    affine(backbone(images)), before, rtol=1e-3, atol=1e-3 * float(before.std())
                ):
                    return affine
    raise UserError(
        f"classifier.trainable=norm_head needs a backbone that ends in a layer normalisation before pooling (Swin, "
        f"ViT, ConvNeXt), and {settings.backbone} does not; use classifier.trainable=head"
    )


def _submodule(backbone: nn.Module, name: str) -> nn.Module | None:
    try:
        return backbone.get_submodule(name)
    except AttributeError:
        return None


def _create(settings: Classifier) -> nn.Module:
    try:
        return timm.create_model(settings.backbone, pretrained=False, num_classes=0, **settings.backbone_args)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise _unknown(settings.backbone) from None
        raise UserError(f"classifier.backbone_args do not fit {settings.backbone}: {error!r}") from None
    except Exception as error:  # whatever a model's own code makes of arguments that do not fit it
        raise UserError(f"classifier.backbone_args do not fit {settings.backbone}: {error!r}") from None


def _unknown(backbone: str) -> UserError:
    close = timm.list_models(f"*{backbone.split('_')[0]}*")[:3]
    hint = f"similar: {', '.join(close)}" if close else "timm.list_models() lists them"
    return UserError(f"timm knows no model classifier.backbone={backbone}; {hint}")


def _downloaded(settings: Classifier) -> Path:
    """The file of named weights, from the cache of the library that offers it or downloaded into it."""
    backbone = settings.backbone
    if not timm.is_model(backbone):
        raise _unknown(backbone)
    enumeration = TORCHVISION.get(backbone) if settings.weights == "imagenet" else None
    if enumeration is not None:
        from torchvision.models import get_weight

        url = get_weight(enumeration).url
        return download.from_url(
            url, what=f"the ImageNet weights of {backbone}", setting="classifier.weights=FILE"
        )
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        raise UserError(f"timm has no ImageNet weights for {backbone}; give classifier.weights=FILE")
    return download.from_hub(config.hf_hub_id, HUB_FILE, what=f"the ImageNet weights of {backbone}")


# --- features of every stage ---------------------------------------------------------------------------------------


class StageFeatures(nn.Module):
    """(n, 3, s, s) -> (n, d): pooled maps of all stages and the backbone's own features, one after the other.

    Each part is layer-normalised and scaled to unit length by itself, so that no part dominates; that looks at one
    image alone and costs no privacy. Linear heads on intermediate features: Evci et al. 2022 (Head2Toe).
    """

    def __init__(self, backbone: nn.Module, *, input_size: int) -> None:
        super().__init__()
        if not hasattr(backbone, "forward_intermediates"):
            raise UserError(
                f"classifier.features=stages needs a backbone with stages, and {type(backbone).__name__} does "
                "not; use classifier.features=last"
            )
        self.backbone = backbone
        with torch.no_grad():
            self.num_features = self(torch.zeros(1, 3, input_size, input_size)).shape[1]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        last, maps = self.backbone.forward_intermediates(inputs)  # type: ignore[operator]
        parts = [m.mean(dim=(2, 3)) for m in maps] + [self.backbone.forward_head(last)]  # type: ignore[operator]
        parts = [functional.normalize(functional.layer_norm(p, p.shape[-1:]), dim=-1) for p in parts]
        return torch.cat(parts, dim=1)


# --- which parameters train -----------------------------------------------------------------------------------------


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
