"""The classifier: a frozen timm backbone (the body) and a head on its pooled features."""

import sys
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mammo_dp.errors import UserError
from mammo_dp.models.download import check_reachable
from mammo_dp.sections import Classifier, Recipe

HUB_FILE = "model.safetensors"
CLASSES = 2  # benign 0, malignant 1


def build_body(settings: Classifier) -> nn.Module:
    """The backbone without its classification layer, frozen, in eval mode: (n, 3, s, s) -> (n, d) pooled features.

    Raises UserError if timm does not know the model or the weights are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.init_seed)
        body = _create(settings)
    if settings.weights != "none":
        load_weights(body, settings.weights_file or _imagenet_file(settings.backbone), name=settings.backbone)
    return body.eval().requires_grad_(False)


def feature_size(body: nn.Module) -> int:
    """Length d of the body's feature vector."""
    return int(body.num_features)  # type: ignore[arg-type]


def build_head(recipe: Recipe, *, features: int, seed: int) -> nn.Sequential:
    """The trainable part: `linear` is Linear(d, 2); `mlp` is the paper's Linear(d, h), LeakyReLU(0.2), Linear(h, 2)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.head == "linear":
            head = nn.Sequential(nn.Linear(features, CLASSES))
        else:
            hidden = recipe.hidden or features // 2
            head = nn.Sequential(nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, CLASSES))
    if recipe.zero_init:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    return head


def load_weights(body: nn.Module, path: Path, *, name: str) -> None:
    """Load a .safetensors or weights-only .pth file strictly."""
    fit_weights(body, read_weights(path), name=name)


def fit_weights(body: nn.Module, stored: Mapping[str, torch.Tensor], *, name: str) -> None:
    """Load tensors of a file strictly.

    The file's classification layer is dropped, and files of a model's authors go through timm's own renaming.
    Raises UserError naming the first key that is missing, unknown or of another shape.
    """
    module = sys.modules[type(body).__module__]
    renamed = dict(getattr(module, "checkpoint_filter_fn", lambda state, model: state)(stored, body))
    classifier = body.default_cfg["classifier"]  # type: ignore[index]
    prefixes = tuple(f"{p}." for p in ([classifier] if isinstance(classifier, str) else classifier))
    expected = body.state_dict()
    transient = {key for key, _ in body.named_buffers()} - set(expected)
    given = {k: v for k, v in renamed.items() if not k.startswith(prefixes) and k not in transient}

    advice = f"give a file of timm's {name}, or set classifier.backbone to the model that the file belongs to"
    for fault, keys in (
        ("lacks", [key for key in expected if key not in given]),
        ("holds an unknown", [key for key in given if key not in expected]),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"the file of classifier.weights {fault} key {keys[0]}{more}; {advice}")
    for key, tensor in expected.items():
        shape = stored[key].shape if key in stored else given[key].shape  # before timm resizes anything
        if shape != tensor.shape:
            raise UserError(
                f"key {key} of the file of classifier.weights has shape {tuple(shape)}, {name} needs "
                f"{tuple(tensor.shape)}; {advice}"
            )
    body.load_state_dict(given, strict=True)


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file. Raises UserError if it is neither, or holds more than tensors."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _unreadable(error) from None
    except (
        Exception
    ) as error:  # torch.load raises pickle's own errors for a file that holds more than tensors
        if type(error).__name__ != "UnpicklingError":
            raise
        raise _unreadable(error) from None
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UserError("the file of classifier.weights holds no table of tensors; give a state dict")
    return content


def _unreadable(error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the file of classifier.weights cannot be read ({first}); give a .safetensors file or a .pth of tensors only"
    )


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


def _imagenet_file(backbone: str) -> Path:
    """The file of timm's default weights, from the hub client's cache or downloaded into it."""
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=False) if timm.is_model(backbone) else None
    if not timm.is_model(backbone):
        raise _unknown(backbone)
    if config is None or not config.hf_hub_id:
        raise UserError(f"timm has no ImageNet weights for {backbone}; give classifier.weights=FILE")
    cached = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        check_reachable(endpoint)
        return Path(huggingface_hub.hf_hub_download(config.hf_hub_id, HUB_FILE))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise UserError(
            f"the ImageNet weights of {backbone} could not be downloaded ({type(error).__name__}); with a network run "
            f"again, or fetch {endpoint}/{config.hf_hub_id}/resolve/main/{HUB_FILE} and give classifier.weights=FILE"
        ) from None
