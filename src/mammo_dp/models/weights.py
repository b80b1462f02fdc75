"""Files of network weights: how they are wrapped, whose layout their keys are in, and loading them strictly."""

import argparse
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mammo_dp.errors import UserError

State = dict[str, torch.Tensor]
# where training scripts keep the weights in a checkpoint; running means first, as timm prefers them
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net")
# what parallel training, Opacus, compilation and networks around a backbone put before its keys
PREFIXES = ("module.", "_module.", "_orig_mod.", "model.", "backbone.", "swin.")
SHORTEST = 8  # bytes that tell a kind of file
DEEPEST = 3  # wrappers inside wrappers

# What training scripts save beside weights: arguments, and the settings of Microsoft's script (RadImageNet's too),
# which are of a package that need not be here.
HARMLESS: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]


def read_weights(path: Path, *, setting: str = "classifier.weights") -> State:
    """The tensors of a .safetensors or .pth file, without wrappers and prefixes.

    Raises UserError if it is neither, is named as the other, holds more than tensors, or if a value is not finite.
    """
    content = (
        _read_safetensors(path, setting) if _is_safetensors(path, setting) else _read_torch(path, setting)
    )
    state = _unwrapped(content, setting)
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            raise UserError(
                f"key {key} of the file of {setting} is sparse, quantized, complex or without values; give a "
                "checkpoint of plain floating-point weights"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"key {key} of the file of {setting} holds values that are not finite; fetch it again, or take an "
                "earlier checkpoint"
            )
    return state


def load_weights(network: nn.Module, path: Path, *, name: str) -> None:
    """Load a file of weights strictly into timm's network `name`."""
    fit_weights(network, read_weights(path), name=name)


def fit_weights(
    network: nn.Module, stored: Mapping[str, torch.Tensor], *, name: str, setting: str = "classifier.weights"
) -> None:
    """Load tensors of a file strictly.

    The file's classification layer is dropped; torchvision's Swin is renamed here, files of a model's authors by timm.
    Raises UserError naming the layout that was found and the first key that is missing, unknown or of another shape.
    """
    found = layout_of(stored)
    module = sys.modules[type(network).__module__]
    filtered: Callable[..., Any] = getattr(module, "checkpoint_filter_fn", lambda state, model: state)
    advice = f"the file is in the layout of {found}; give a file of {name}"
    if setting == "classifier.weights":
        advice += ", or set classifier.backbone to the model that it belongs to"
    try:
        if found == TORCHVISION_SWIN:
            stored = from_torchvision_swin(stored)
        renamed = dict(filtered(dict(stored), network))
    except Exception as error:  # each renaming meets keys of other models in its own way
        raise UserError(
            f"the file of {setting} does not fit {name} ({type(error).__name__}); {advice}"
        ) from None
    classifier = network.default_cfg["classifier"] or ()  # type: ignore[index]
    layers = [classifier] if isinstance(classifier, str) else list(classifier)
    heads = tuple(f"{layer}." for layer in (*layers, "head", "fc", "classifier"))
    expected = network.state_dict()
    transient = {key for key, _ in network.named_buffers()} - set(expected)
    given = {k: v for k, v in renamed.items() if k in expected or not (k.startswith(heads) or k in transient)}
    for fault, keys in (
        ("lacks", [key for key in expected if key not in given]),
        ("holds an unknown", [key for key in given if key not in expected]),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"the file of {setting} {fault} key {keys[0]}{more}; {advice}")
    as_stored = {tensor.data_ptr() for tensor in stored.values()}
    for key, tensor in expected.items():
        if tensor.is_floating_point() and not given[key].is_floating_point():
            raise UserError(f"key {key} of the file of {setting} holds whole numbers, not weights; {advice}")
        shape = given[key].shape
        if given[key].data_ptr() not in as_stored and key in stored:  # timm has resized it
            shape = stored[key].shape
        if shape != tensor.shape:
            raise UserError(
                f"key {key} of the file of {setting} has shape {tuple(shape)}, {name} needs "
                f"{tuple(tensor.shape)}; {advice}"
            )
    network.load_state_dict(given, strict=True)


# --- layouts ----------------------------------------------------------------------------------------------------

TORCHVISION_SWIN = "torchvision's Swin"
# the first pattern that some key matches names the layout
LAYOUTS = (
    (TORCHVISION_SWIN, r"features\.1\.0\.attn\.relative_position_bias_table"),
    ("torchvision's Swin v2", r"features\.1\.0\.attn\.cpb_mlp\."),
    ("Swin v2", r"layers\.0\.blocks\.0\.attn\.(logit_scale|cpb_mlp)"),
    ("Microsoft's Swin", r"layers\.0\.downsample\.reduction\.weight"),
    ("timm's Swin", r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table"),
    ("the transformers library's Swin", r"layers\.0\.blocks\.0\.attention\.self\."),
    ("MMPretrain's Swin", r"stages\.0\.blocks\.0\.attn\.w_msa\."),
    ("a vision transformer", r"cls_token"),
    ("ConvNeXt", r"stages\.0\.blocks\.0\.conv_dw\."),
    ("a ResNet in RadImageNet's own layout", r"4\.0\.conv1\.weight"),
    ("a ResNet", r"layer1\.0\.conv1\.weight"),
    ("DenseNet", r"features\.denseblock1\."),
    ("timm's MobileNet or EfficientNet", r"blocks\.0\.0\.conv_dw\.weight"),
    ("torchvision's MobileNet, EfficientNet or VGG", r"features\.0\.(0\.)?weight"),
)


def layout_of(stored: Mapping[str, torch.Tensor]) -> str:
    """Whose network and naming the keys are, in words."""
    for name, pattern in LAYOUTS:
        if any(re.match(pattern, key) for key in stored):
            return name
    first = next(iter(stored), None)
    return "no network" if first is None else f"a network that is not known here (its first key is {first})"


def from_torchvision_swin(stored: Mapping[str, torch.Tensor]) -> State:
    """torchvision's keys of a Swin transformer as timm's. The two networks are one function of these tensors."""
    renamed = {}
    for key, tensor in stored.items():
        part = re.fullmatch(r"features\.(\d+)\.(.+)", key)
        if part is None:
            renamed[re.sub(r"^head\.", "head.fc.", key)] = tensor
        elif not key.endswith("relative_position_index"):
            number, rest = int(part[1]), part[2]
            if number == 0:  # 0.0 the convolution, 0.2 the norm behind it
                place = {"0": "patch_embed.proj", "2": "patch_embed.norm"}[rest[0]]
                renamed[f"{place}{rest[1:]}"] = tensor
            elif number % 2:
                rest = rest.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
                renamed[f"layers.{number // 2}.blocks.{rest}"] = tensor
            else:
                renamed[f"layers.{number // 2}.downsample.{rest}"] = tensor
    return renamed


# --- files ------------------------------------------------------------------------------------------------------


def _is_safetensors(path: Path, setting: str) -> bool:
    """Or one of torch.save. Raises UserError for what is known to be neither, and where the name is the other's."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise _unreadable(error, setting) from None
    fault = None
    if len(start) < SHORTEST:
        fault = f"it has {len(start)} bytes; fetch it again"
    elif start.startswith(b"version https://git-lfs"):
        fault = "it is a pointer of Git LFS, not the file; run `git lfs pull` where it came from"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        fault = "it is a web page, perhaps that of a login; fetch it again"
    elif start.startswith(b"\x89HDF"):
        fault = "it is an HDF5 file of Keras; fetch the one for PyTorch"
    if fault is not None:
        raise UserError(f"the file of {setting} cannot be used: {fault}")
    safe = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    torchs = start.startswith((b"PK", b"\x80"))
    named = path.suffix == ".safetensors"
    if (safe and not named) or (torchs and named):
        right = path.with_suffix(".safetensors" if safe else ".pth").name
        what = "safetensors" if safe else "torch.save"
        raise UserError(
            f"the file of {setting} is one of {what} by its content, whatever its name says; rename it to "
            f"{right}"
        )
    return named


def _read_safetensors(path: Path, setting: str) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(error, setting) from None


def _read_torch(path: Path, setting: str) -> Any:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many kinds for bytes that are no checkpoint
        if isinstance(error, pickle.UnpicklingError):
            raise UserError(
                f"the file of {setting} holds more than tensors, or is damaged; give a .safetensors file or a .pth of "
                "tensors only"
            ) from None
        raise _unreadable(error, setting) from None


def _unwrapped(content: Any, setting: str) -> State:
    for _ in range(DEEPEST):
        inner = [content[w] for w in WRAPPERS if isinstance(content, dict) and _holds_weights(content.get(w))]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UserError(f"the file of {setting} holds no table of tensors; give a state dict")
    if not all(isinstance(key, str) for key in content):
        raise UserError(f"the file of {setting} names its tensors otherwise than by words; give a state dict")
    state = dict(content)
    while prefix := next((p for p in PREFIXES if _is_prefix(p, state)), None):
        stripped = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        if len(stripped) < len(state):
            twice = next(key for key in state if key.startswith(prefix) and key.removeprefix(prefix) in state)
            raise UserError(
                f"the file of {setting} holds both {twice} and {twice.removeprefix(prefix)}; give a file of one network"
            )
        state = stripped
    return state


def _holds_weights(content: Any, depth: int = 3) -> bool:
    """Whether a matrix lies in a dict, or in dicts inside it."""
    if not isinstance(content, dict) or not depth:
        return False
    return any(
        value.ndim > 1 if isinstance(value, torch.Tensor) else _holds_weights(value, depth - 1)
        for value in content.values()
    )


def _is_prefix(prefix: str, state: State) -> bool:
    """Whether a prefix stands before a network's keys: before most of them, since a head may lie beside it."""
    return 2 * sum(key.startswith(prefix) for key in state) > len(state)


def _unreadable(error: Exception, setting: str) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"the file of {setting} cannot be read ({first}); give a .safetensors file or a .pth of tensors only"
    )
